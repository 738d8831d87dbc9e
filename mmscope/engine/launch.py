"""Building a Runner from a config, with clear errors before it runs."""

import atexit
import gc
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_distributed
from mmengine.hooks import EMAHook
from mmengine.runner import Runner, find_latest_checkpoint

from mmscope.datasets.void_checks import check_void_label
from mmscope.utils.checkpoint import (
    MMENGINE_WRAPPERS,
    check_weights,
    read_state_dict,
)
from mmscope.utils.config import type_name
from mmscope.utils.download import local_file
from mmscope.utils.installed import installed_path
from mmscope.utils.missing import missing
from mmscope.utils.structures import unwrap
from mmscope.utils.writable import check_folder

from .config_keys import check_keys, check_options, misspelt_keys
from .data_checks import checks_before, checks_of, explained
from .runners import AnsweringRunner, TrainingRunner

# that only mmengine reads
STORES = ('s3://', 'petrel://', 'pavi://')
LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def load_config(
    path: str, work_dir: str | None = None, options: dict | None = None
) -> Config:
    """Read a config and apply the command line's changes.

    Args:
        path: Config file, or 'mmscope::upernet/...' of the package's own.
        work_dir: Folder for logs and checkpoints; by default the config's,
            or work_dirs/ and the config's name.
        options: ``--cfg-options``.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: a key of it or of the options is misspelt.
    """
    path = installed_path(path)
    if not Path(path).is_file():
        raise missing('config', path)
    cfg = Config.fromfile(path)
    _leave_scope([*cfg.values()])
    if options:
        check_options(cfg, options)
        cfg.merge_from_dict(options)
    check_keys(cfg)
    default = f'work_dirs/{Path(path).stem}'
    cfg.work_dir = work_dir or cfg.get('work_dir') or default
    return cfg


def _leave_scope(value: Any) -> None:
    """Take ``_scope_='mmscope'`` out of what came from 'mmscope::' bases.

    mmengine marks a base of another package with that package's scope. Our
    configs are written for the library that they configure, as their
    ``default_scope`` says, and know no scope of their own.
    """
    if isinstance(value, dict):
        if value.get('_scope_') == 'mmscope':
            del value['_scope_']
        for each in value.values():
            _leave_scope(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            _leave_scope(each)


def build_runner(
    cfg: Config,
    launcher: str,
    splits: tuple[str, ...],
    checkpoint: str | None = None,
) -> Runner:
    """Check data and weights, set up distribution and build the runner.

    Args:
        cfg: Complete config.
        launcher: One of ``LAUNCHERS``.
        splits: Those of 'train', 'val' and 'test' that will run.
        checkpoint: Weights to test instead of what the config loads or
            resumes from.

    Raises:
        FileNotFoundError: a checkpoint or a dataset folder is missing, or
            the dataset has no samples.
        NotADirectoryError: the work dir is no folder, or below none.
        PermissionError: it cannot be written to.
        CheckpointError: the checkpoint is truncated, none, or, to be tested
            or resumed from, of another model.
        ValueError: the config lacks what a split needs, or has a strategy
            or a key that is not known, or an annotation file cannot be read.
    """
    if cfg.get('strategy'):
        raise ValueError(
            f"strategy={type_name(cfg.strategy)} is for mmengine's "
            'FlexibleRunner, and the tools run its Runner, which would train '
            'without it; take strategy out of the config'
        )
    check_folder(cfg.work_dir, 'work_dir')
    if checkpoint is not None:
        cfg.load_from, cfg.resume = str(local_file(checkpoint)), False
    for split in ('train', 'val', 'test'):
        _settle_workers(cfg.get(f'{split}_dataloader'))
    for split in splits:
        for check in checks_before(cfg, split):
            check()
    check_void_label(cfg, splits)
    cfg.launcher = launcher
    if launcher != 'none' and not torch.cuda.is_available():
        _distribute_on_cpu(cfg, launcher)
    source = _file_to_load(cfg)
    # read before mmengine does it, which would run code of the file
    state = source and read_state_dict(source, MMENGINE_WRAPPERS)
    kind = TrainingRunner if 'train' in splits else AnsweringRunner
    with misspelt_keys(cfg):
        runner = kind.from_cfg(cfg)
        for split in splits:
            _build_loop(runner, split)
    if source and (checkpoint is not None or cfg.get('resume')):
        check_weights(state, unwrap(runner.model), source, cfg.filename)
    if checkpoint is not None:
        _rest_averages(runner)
        runner.load_or_resume()
    return runner


def _rest_averages(runner: Runner) -> None:
    """Take out hooks that average weights, which only training needs.

    A checkpoint of theirs has the averages for the model's weights; the
    hooks would fail to load it here, or put the others back.
    """
    for hook in [h for h in runner.hooks if isinstance(h, EMAHook)]:
        runner.hooks.remove(hook)


def _file_to_load(cfg: Config) -> str | None:
    """The checkpoint that the Runner will load, None if there is none.

    What mmengine downloads is there by then, where mmengine finds it. What
    lies in stores that are mmengine's alone (``s3://``) is left to it.
    """
    path = cfg.get('load_from')
    if path is None and cfg.get('resume'):
        path = find_latest_checkpoint(cfg.work_dir)
    if path is None or str(path).startswith(STORES):
        return None
    return str(local_file(path))


def _build_loop(runner: Runner, split: str) -> None:
    """Build a loop, and with it its dataset, before anything runs.

    Raises:
        FileNotFoundError: the dataset found no samples; mmengine then fails
            to concatenate them.
        ValueError: an annotation file cannot be read, or lacks something.
    """
    if runner.cfg.get(f'{split}_dataloader') is None:
        return
    with explained(runner.cfg, split):
        loop = getattr(runner, f'{split}_loop')
    for check in checks_of(loop.dataloader.dataset, runner.cfg, split):
        check()


def _settle_workers(dataloader: ConfigDict | None) -> None:
    """Let num_workers=0 suffice to load in the main process."""
    if dataloader and not dataloader.get('num_workers'):
        dataloader.persistent_workers = False
        dataloader.pop('prefetch_factor', None)


def _distribute_on_cpu(cfg: Config, launcher: str) -> None:
    """Set up what mmengine expects a GPU for.

    Its own set-up calls ``torch.cuda.set_device``, its wrapper passes a
    device, and synchronised BatchNorm runs on GPUs only: each process keeps
    statistics of its own.

    Raises:
        ValueError: the launcher cannot do without GPUs.
    """
    if launcher != 'pytorch':
        raise ValueError(
            f'--launcher {launcher} needs GPUs, and torch sees none; on CPUs '
            'use --launcher pytorch'
        )
    if not is_distributed():
        torch.distributed.init_process_group('gloo')
        atexit.register(_leave_group)
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None
    )
    cfg.sync_bn = None


def _leave_group() -> None:
    """End gloo's threads, which abort a process if they outlive Python."""
    gc.collect()  # a wrapped model would keep the group
    torch.distributed.destroy_process_group()

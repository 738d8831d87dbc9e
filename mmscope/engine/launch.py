"""What tools/train.py and tools/test.py do to a config before a run."""

import atexit
import gc
from pathlib import Path

import mmengine
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_distributed, master_only
from mmengine.runner import Runner, find_latest_checkpoint
from torch import nn

from mmscope.datasets.layout import check_dataset
from mmscope.utils.checkpoint import CheckpointError, read_state_dict

from .hooks import unwrap

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def load_config(
    path: str, work_dir: str | None = None, options: dict | None = None
) -> Config:
    """Read a config and apply the command line's changes.

    Args:
        path: Config file.
        work_dir: Folder for logs and checkpoints; by default the config's,
            or work_dirs/ and the config's name.
        options: ``--cfg-options``.

    Raises:
        FileNotFoundError: there is no such config.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'config {path} does not exist')
    cfg = Config.fromfile(path)
    if options:
        cfg.merge_from_dict(options)
    default = f'work_dirs/{Path(path).stem}'
    cfg.work_dir = work_dir or cfg.get('work_dir') or default
    return cfg


def set_eta(cfg: Config, eta: float) -> None:
    """Set the confidence from which images exit.

    Raises:
        ValueError: the model has no exits, or ``eta`` is outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f'--eta must be in [0, 1], got {eta}')
    if not has_exits(cfg):
        raise ValueError(
            f'--eta needs a model with early exits; the backbone of '
            f'{cfg.filename} is {cfg.model.backbone.type}'
        )
    cfg.model.backbone.eta = eta


def set_amp(cfg: Config) -> None:
    """Train with automatic mixed precision.

    Raises:
        RuntimeError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise RuntimeError(
            '--amp needs a GPU, and torch sees none; train without it'
        )
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def set_resume(cfg: Config, source: str) -> None:
    """Resume from a checkpoint.

    Args:
        cfg: Config to change.
        source: A checkpoint, or 'auto' for the latest in the work dir.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        CheckpointError: it is truncated or no checkpoint.
    """
    cfg.resume = True
    cfg.load_from = None if source == 'auto' else source
    path = cfg.load_from or find_latest_checkpoint(cfg.work_dir)
    if path is not None:  # else training starts from the beginning
        read_state_dict(path)


def set_pictures(cfg: Config, folder: str) -> None:
    """Draw every prediction beside its ground truth into a folder."""
    cfg.default_hooks.visualization.update(draw=True, interval=1)
    cfg.visualizer.save_dir = folder


def set_output(cfg: Config, folder: str) -> None:
    """Write predicted masks and the decision about each image.

    Args:
        cfg: Config to change; its evaluator is an IoUMetric.
        folder: Gets predictions/ and exits.json.
    """
    cfg.test_evaluator.output_dir = str(Path(folder) / 'predictions')
    if has_exits(cfg):
        cfg.exit_metric = dict(out_file=str(Path(folder) / 'exits.json'))


@master_only
def save_metrics(metrics: dict, cfg: Config, folder: str) -> None:
    """Write metrics.json: the metrics and the eta that they hold for."""
    record = {k: float(v) for k, v in metrics.items()}
    if has_exits(cfg):
        record['eta'] = cfg.model.backbone.get('eta', 1.0)
    mmengine.dump(record, Path(folder) / 'metrics.json', indent=2)


def load_checkpoint(runner: Runner, path: str) -> None:
    """Load weights for testing, all of them.

    mmengine runs the code that a checkpoint may bring along, and only warns
    of weights that do not fit.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is truncated, no checkpoint, or of another model.
    """
    load_weights(unwrap(runner.model), path, runner.cfg.filename)
    runner.logger.info('loaded %s', path)


def load_weights(model: nn.Module, path: str, config: str) -> None:
    """Load weights into a model, all of them; see :func:`load_checkpoint`."""
    state = read_state_dict(path)
    problems = _differences(state, model.state_dict())
    if problems:
        raise CheckpointError(
            f'{path} is not of the model of {config}, '
            f'{len(problems)} weights differ: {"; ".join(problems[:4])}; '
            'check config and checkpoint'
        )
    model.load_state_dict(state)


def _differences(given: dict, wanted: dict) -> list[str]:
    """What keeps one state dict from being loaded in place of another."""
    shared = wanted.keys() & given.keys()
    lines = [f'missing {k}' for k in wanted.keys() - shared]
    lines += [f'unexpected {k}' for k in given.keys() - shared]
    lines += [
        f'{k} is {tuple(given[k].shape)}, not {tuple(wanted[k].shape)}'
        for k in shared
        if given[k].shape != wanted[k].shape
    ]
    return sorted(lines)


def has_exits(cfg: Config) -> bool:
    """Whether the config's model decides about early exits."""
    backbone = cfg.model.backbone
    return (
        backbone.type == 'mmscope.MambaScopeBackbone'
        and backbone.get('exit_head', {}) is not None
    )


def add_exit_metric(cfg: Config, splits: tuple[str, ...]) -> None:
    """Report the exit rate beside the task's metrics.

    It is added here and not in the configs, where an evaluator is one dict
    so that ``--cfg-options val_evaluator.ann_file=...`` works.
    """
    if not has_exits(cfg):
        return
    for split in splits:
        evaluator = cfg.get(f'{split}_evaluator')
        if isinstance(evaluator, ConfigDict):
            cfg[f'{split}_evaluator'] = [
                evaluator,
                dict(type='mmscope.ExitMetric', **cfg.get('exit_metric', {})),
            ]


def build_runner(
    cfg: Config, launcher: str, splits: tuple[str, ...]
) -> Runner:
    """Check the data, set up distribution and build the runner.

    Args:
        cfg: Complete config.
        launcher: One of ``LAUNCHERS``.
        splits: Those of 'train', 'val' and 'test' that will run.

    Raises:
        FileNotFoundError: a dataset folder is missing or has no samples.
    """
    for split in splits:
        check_dataset(cfg.get(f'{split}_dataloader'))
        _settle_workers(cfg.get(f'{split}_dataloader'))
    add_exit_metric(cfg, tuple(s for s in splits if s != 'train'))
    cfg.launcher = launcher
    if launcher != 'none' and not torch.cuda.is_available():
        _distribute_on_cpu(cfg, launcher)
    runner = Runner.from_cfg(cfg)
    for split in splits:
        _build_loop(runner, split)
    return runner


def _build_loop(runner: Runner, split: str) -> None:
    """Build a loop, and with it its dataset, before anything runs.

    Raises:
        FileNotFoundError: the dataset found no samples; mmengine then fails
            to concatenate them.
    """
    try:
        getattr(runner, f'{split}_loop')
    except ValueError as err:
        if 'need at least one array' not in str(err):
            raise
        dataset = runner.cfg[f'{split}_dataloader'].dataset
        raise FileNotFoundError(
            f'{dataset.type} found no samples in {dataset.data_root} below '
            f'{dict(dataset.data_prefix)}: the folder is empty, or its files '
            'do not end in img_suffix (.jpg by default)'
        ) from err


def _settle_workers(dataloader: ConfigDict | None) -> None:
    """Let num_workers=0 suffice to load in the main process."""
    if dataloader and not dataloader.get('num_workers'):
        dataloader.persistent_workers = False


def _distribute_on_cpu(cfg: Config, launcher: str) -> None:
    """Set up what mmengine expects a GPU for.

    Its own set-up calls ``torch.cuda.set_device``, its wrapper passes a
    device, and SyncBN runs on GPUs only: each process keeps statistics of
    its own.

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
    _replace_type(cfg.model, 'SyncBN', 'BN')


def _leave_group() -> None:
    """End gloo's threads, which abort a process if they outlive Python."""
    gc.collect()  # a wrapped model would keep the group
    torch.distributed.destroy_process_group()


def _replace_type(node: object, old: str, new: str) -> None:
    """Rename a ``type`` everywhere in a config."""
    if isinstance(node, dict):
        if node.get('type') == old:
            node['type'] = new
        for value in node.values():
            _replace_type(value, old, new)
    elif isinstance(node, list | tuple):
        for value in node:
            _replace_type(value, old, new)

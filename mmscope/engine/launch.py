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

from mmscope.datasets.checks import (
    check_annotations,
    check_dataset,
    check_evaluator,
)
from mmscope.datasets.transforms import check_loading
from mmscope.utils.checkpoint import CheckpointError, read_state_dict
from mmscope.utils.structures import unwrap

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')
# scores of validation choose the best checkpoint
EVALUATORS = dict(val='mmscope.ExitEvaluator', test='Evaluator')


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
    require_exits(cfg, '--eta')
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
    hook = cfg.default_hooks.visualization
    hook.update(draw=True, interval=1)
    if hook.type == 'DetVisualizationHook':
        # names pictures after the images, which the visualizer does not
        hook.test_out_dir = str(Path(folder).absolute())
    else:
        cfg.visualizer.save_dir = folder


def set_output(cfg: Config, folder: str) -> None:
    """Write predictions and the decision about each image.

    Args:
        cfg: Config to change; its evaluator is an IoUMetric or CocoMetric.
        folder: Gets exits.json, exit_statistics.json and predictions/, or
            predictions.bbox.json and predictions.segm.json in COCO's format
            of results.

    Raises:
        ValueError: the evaluator is another one.
    """
    evaluator, path = cfg.test_evaluator, Path(folder) / 'predictions'
    if evaluator.type == 'IoUMetric':
        evaluator.output_dir = str(path)
    elif evaluator.type == 'CocoMetric':
        path.parent.mkdir(parents=True, exist_ok=True)
        evaluator.outfile_prefix = str(path)
    else:
        raise ValueError(
            '--out needs a test_evaluator of type IoUMetric or CocoMetric, '
            f'got {evaluator.type}; test without --out'
        )
    if has_exits(cfg):
        cfg.exit_metric = dict(
            out_file=str(Path(folder) / 'exits.json'),
            statistics_file=str(Path(folder) / 'exit_statistics.json'),
        )


@master_only
def save_metrics(metrics: dict, cfg: Config, folder: str) -> None:
    """Write metrics.json: the metrics and the eta that they hold for."""
    record = {k: float(v) for k, v in metrics.items()}
    if has_exits(cfg):
        record['eta'] = cfg.model.backbone.get('eta', 1.0)
    mmengine.dump(record, Path(folder) / 'metrics.json', indent=2)


def load_checkpoint(runner: Runner, path: str) -> None:
    """Load weights for testing, all of them; see :func:`load_weights`."""
    load_weights(unwrap(runner.model), path, runner.cfg.filename)
    runner.logger.info('loaded %s', path)


def load_weights(model: nn.Module, path: str, config: str) -> None:
    """Load all weights of a model.

    mmengine runs the code that a checkpoint may bring along, and only warns
    of weights that do not fit.

    Args:
        model: To load into.
        path: Checkpoint.
        config: Whose model it is, for the error.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is truncated, no checkpoint, or of another model.
    """
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


def require_exits(cfg: Config, what: str) -> None:
    """Refuse models without early exits.

    Raises:
        ValueError: the config's model never decides.
    """
    if not has_exits(cfg):
        backbone = cfg.model.backbone
        raise ValueError(
            f'{what} needs a model with early exits; the backbone of '
            f'{cfg.filename} is {backbone.type}, exit_head='
            f'{backbone.get("exit_head")}: take mmscope.MambaScopeBackbone '
            'with an exit_head'
        )


def add_exit_metric(cfg: Config, splits: tuple[str, ...]) -> None:
    """Report exit statistics beside the task's metrics.

    In testing these include the task's score on exited and refined images.
    It is added here and not in the configs, where an evaluator is one dict
    so that ``--cfg-options val_evaluator.ann_file=...`` works.
    """
    if not has_exits(cfg):
        return
    for split in splits:
        evaluator = cfg.get(f'{split}_evaluator')
        if isinstance(evaluator, ConfigDict) and 'metrics' not in evaluator:
            options = dict(cfg.get('exit_metric', {}))
            if split == 'test':
                options['task'] = {
                    key: value
                    for key, value in evaluator.items()
                    if key not in ('output_dir', 'outfile_prefix')
                }
            cfg[f'{split}_evaluator'] = dict(
                type=EVALUATORS[split],
                metrics=[
                    evaluator,
                    dict(type='mmscope.ExitMetric', **options),
                ],
            )


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
        ValueError: an annotation file cannot be read.
    """
    for split in splits:
        check_dataset(cfg.get(f'{split}_dataloader'))
        check_evaluator(f'{split}_evaluator', cfg.get(f'{split}_evaluator'))
        _settle_workers(cfg.get(f'{split}_dataloader'))
        _check_loading(cfg, split)
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
        ValueError: its annotation file cannot be read.
    """
    try:
        getattr(runner, f'{split}_loop')
    except Exception as err:
        dataset = runner.cfg[f'{split}_dataloader'].dataset
        check_annotations(dataset)
        if 'need at least one array' not in str(err):
            raise
        raise FileNotFoundError(
            f'{dataset.type} found no samples in {dataset.data_root} below '
            f'{dict(dataset.data_prefix)}: {_why_no_samples(dataset)}'
        ) from err


def _why_no_samples(dataset: ConfigDict) -> str:
    if dataset.get('ann_file'):
        return (
            f'{dataset.ann_file} has no image with one of its classes '
            '(metainfo.classes) that filter_cfg lets pass'
        )
    return (
        'the folder is empty, or its files do not end in img_suffix (.jpg '
        'by default)'
    )


def _settle_workers(dataloader: ConfigDict | None) -> None:
    """Let num_workers=0 suffice to load in the main process."""
    if dataloader and not dataloader.get('num_workers'):
        dataloader.persistent_workers = False


def _check_loading(cfg: Config, split: str) -> None:
    """Have files that cannot be read named, and the labels of masks checked.

    It is done here, so that the pipelines of the configs read as those of
    mmseg and mmdet, whose own inferencers look for their loading transforms.
    """
    head = cfg.model.get('decode_head')
    options = {}
    if isinstance(head, dict):
        options = dict(
            num_classes=head.num_classes,
            ignore_index=head.get('ignore_index', 255),
        )
    check_loading(cfg.get(f'{split}_dataloader'), **options)


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

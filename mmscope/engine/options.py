"""Options that tools share, and what they change in a config."""

from argparse import ArgumentParser
from math import isfinite
from pathlib import Path

import mmengine
import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner, find_latest_checkpoint

from mmscope.models import has_exits, require_exits
from mmscope.utils.config import metric_configs, type_name
from mmscope.utils.writable import check_folder

# hooks that name pictures after the images, which visualizers do not
NAMING_HOOKS = ('DetVisualizationHook', 'ClassVisualizationHook')


def add_cfg_options(
    parser: ArgumentParser,
    text: str = 'change settings of the config, as key=value',
) -> None:
    """Add the option ``--cfg-options`` to a tool.

    Args:
        parser: Parser of the tool's command line.
        text: Help of the option.
    """
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help=text
    )


def set_eta(cfg: Config, eta: float) -> None:
    """Set the confidence from which images exit.

    Raises:
        ValueError: the model has no exits, or ``eta`` is outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f'--eta must be in [0, 1], got {eta}')
    require_exits(cfg, '--eta')
    cfg.model.backbone.eta = eta


def set_tau(cfg: Config, tau: float) -> None:
    """Set the score above which a cell is worth refining.

    Raises:
        ValueError: the model has no exits, or ``tau`` is not finite.
    """
    if not isfinite(tau):
        raise ValueError(
            f'--tau must be a finite number, got {tau}; to refine all cells '
            'that alpha allows: --cfg-options model.backbone.tau=None'
        )
    require_exits(cfg, '--tau')
    cfg.model.backbone.tau = tau


def set_amp(cfg: Config) -> None:
    """Train with automatic mixed precision.

    The config's ``optim_wrapper.dtype`` is what runs; where it says none, a
    GPU gets float16 with a dynamic loss scale, and a CPU bfloat16.

    Raises:
        ValueError: a CPU is asked for another precision than bfloat16.
    """
    wrapper = cfg.optim_wrapper
    on_gpu = torch.cuda.is_available()
    dtype = wrapper.get('dtype') or ('float16' if on_gpu else 'bfloat16')
    if on_gpu:
        wrapper.type, wrapper.dtype = 'AmpOptimWrapper', dtype
        wrapper.setdefault('loss_scale', 'dynamic')
    elif dtype in ('bfloat16', torch.bfloat16):
        wrapper.type = 'mmscope.BFloat16OptimWrapper'
        wrapper.pop('dtype', None)
        wrapper.pop('loss_scale', None)
    else:
        raise ValueError(
            f'--amp trains in bfloat16 on a CPU, and optim_wrapper.dtype is '
            f'{dtype}; train on a GPU, or with --cfg-options '
            'optim_wrapper.dtype=bfloat16'
        )
    MMLogger.get_current_instance().info('mixed precision: %s', dtype)


def set_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate by the batch size.

    Raises:
        ValueError: the config does not say for which batch size it is.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise ValueError(
            f'--auto-scale-lr needs the batch size that the learning rate of '
            f'{cfg.filename} is for: --cfg-options '
            'auto_scale_lr.base_batch_size=16'
        )
    cfg.auto_scale_lr.enable = True


def set_resume(cfg: Config, source: str) -> None:
    """Resume from a checkpoint.

    Args:
        cfg: Config to change.
        source: A checkpoint, or 'auto' for the latest in the work dir.

    Raises:
        FileNotFoundError: the latest checkpoint is gone.
    """
    if source != 'auto':
        cfg.resume, cfg.load_from = True, source
        return
    path = latest_checkpoint(cfg.work_dir)
    cfg.resume = path is not None
    if path is not None:  # otherwise training starts as the config says
        cfg.load_from = path


def latest_checkpoint(work_dir: str) -> str | None:
    """The latest checkpoint of a work dir, which may have been moved.

    Args:
        work_dir: Folder of a training.

    Raises:
        FileNotFoundError: it is gone.
    """
    path = find_latest_checkpoint(work_dir)
    if path is None or Path(path).is_file():
        return path
    return str(_moved(path, work_dir))


def _moved(path: str, work_dir: str) -> Path:
    """Where the latest checkpoint is if the work dir has been moved."""
    moved = Path(work_dir) / Path(path).name
    if not moved.is_file():
        raise FileNotFoundError(
            f'{work_dir}/last_checkpoint names {path or "nothing"}, and '
            f'there is no {moved.name or "checkpoint"} in {work_dir} either; '
            'name a checkpoint with --resume PATH, or remove that file to '
            'start anew'
        )
    return moved


def set_pictures(cfg: Config, folder: str) -> None:
    """Draw every prediction beside its ground truth into a folder.

    Raises:
        ValueError: the config has no hook that draws.
    """
    check_folder(folder, '--show-dir')
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    name = type_name(hook)
    if name in NAMING_HOOKS:
        hook.test_out_dir = str(Path(folder).absolute())
    elif name == 'SegVisualizationHook' and cfg.get('visualizer'):
        cfg.visualizer.save_dir = folder
    else:
        raise ValueError(
            '--show-dir needs default_hooks.visualization=dict(type='
            "'SegVisualizationHook', 'DetVisualizationHook' or "
            "'mmscope.ClassVisualizationHook') and a visualizer, "
            f'{cfg.filename} has {hook}'
        )
    hook.update(draw=True, interval=1)


def set_output(cfg: Config, folder: str) -> None:
    """Write predictions and the decision about each image.

    Args:
        cfg: Config to change; one of its metrics is an IoUMetric, CocoMetric
            or Accuracy.
        folder: Gets exits.json, exit_statistics.json and predictions/,
            predictions.bbox.json and predictions.segm.json in COCO's format
            of results, or of a classifier predictions.pkl, mmengine's dump
            of its data samples, which mmpretrain's analysis tools read.

    Raises:
        ValueError: the metrics are others.
    """
    check_folder(folder, '--out')
    path = Path(folder)
    metrics = {
        type_name(m): m for m in metric_configs(cfg.get('test_evaluator'))
    }
    if iou := metrics.get('IoUMetric'):
        iou.output_dir = str(path / 'predictions')
        # mmseg makes it in the first process, which others may overtake
        Path(iou.output_dir).mkdir(parents=True, exist_ok=True)
    elif coco := metrics.get('CocoMetric'):
        path.mkdir(parents=True, exist_ok=True)
        coco.outfile_prefix = str(path / 'predictions')
    elif 'Accuracy' in metrics:
        dump = dict(
            type='DumpResults', out_file_path=str(path / 'predictions.pkl')
        )
        found = metric_configs(cfg.test_evaluator)
        cfg.test_evaluator = [*found, ConfigDict(dump)]
    else:
        raise ValueError(
            '--out needs a test_evaluator of type IoUMetric, CocoMetric or '
            f'Accuracy, got {", ".join(metrics) or None}; test without --out'
        )
    if exits := metrics.get('ExitMetric'):
        exits.out_file = str(path / 'exits.json')
        exits.statistics_file = str(path / 'exit_statistics.json')
    elif has_exits(cfg):
        MMLogger.get_current_instance().warning(
            "no exits.json: test_evaluator has no dict(type='mmscope."
            "ExitMetric') beside the task's metric"
        )


class MetricsFile(Hook):
    """Write metrics.json as soon as there are metrics.

    Args:
        path: File to write; it gets the metrics and the eta that they hold
            for, and the tau where the model has one.
    """

    # before hooks that draw, which may fail
    priority = 'VERY_HIGH'

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_test_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Write the file, in the main process."""
        if runner.rank != 0:
            return
        record = {k: float(v) for k, v in (metrics or {}).items()}
        if has_exits(runner.cfg):
            backbone = runner.cfg.model.backbone
            record['eta'] = backbone.get('eta', 1.0)
            if backbone.get('tau') is not None:
                record['tau'] = backbone.tau
        mmengine.dump(record, self.path, indent=2)

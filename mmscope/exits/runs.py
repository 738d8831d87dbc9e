"""What the tools about eta build before they run."""

import copy
import os
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from mmscope.engine.launch import build_runner, load_config
from mmscope.models import require_exits
from mmscope.utils.config import metric_configs


def build_exit_runner(
    config: str,
    checkpoint: str,
    work_dir: str | None,
    options: dict | None = None,
    calibration: bool = False,
) -> Runner:
    """Build what the tools about eta need: model, weights, data, metric.

    Args:
        config: Config file of a model with exits.
        checkpoint: Its weights.
        work_dir: Folder for logs.
        options: ``--cfg-options``.
        calibration: Let the test loop read the images for calibration, see
            :func:`set_calibration_data`.

    Raises:
        ValueError: the model has no exits, or the config no test set.
    """
    cfg = load_config(config, work_dir, options)
    require_exits(cfg, 'choosing eta')
    for name in ('test_dataloader', 'test_evaluator'):
        if not cfg.get(name):
            raise ValueError(
                f'{config} has no {name}, so that there is nothing to choose '
                'eta by; set it, for example to that of validation'
            )
    if calibration:
        set_calibration_data(cfg)
    return build_runner(cfg, 'none', ('test',), checkpoint)


def set_calibration_data(cfg: Config) -> None:
    """Test on images that are not of the validation set.

    These are ``calibration_dataloader``'s where the config has one, and else
    training images under the test pipeline.
    """
    loader = copy.deepcopy(cfg.get('calibration_dataloader'))
    if loader is None:
        loader = copy.deepcopy(cfg.test_dataloader)
        loader.dataset = copy.deepcopy(cfg.train_dataloader.dataset)
        loader.dataset.pipeline = cfg.test_dataloader.dataset.pipeline
    cfg.test_dataloader = loader
    for metric in metric_configs(cfg.test_evaluator):
        if 'ann_file' in metric:  # COCO: these images' ground truth
            dataset = loader.dataset
            ann_file = Path(dataset.get('data_root', '')) / dataset.ann_file
            metric.ann_file = str(ann_file)


def write_child_config(path: Path, base: str, line: str, comment: str) -> Path:
    """Write a config that changes one thing of another.

    Args:
        path: File to write.
        base: The other config.
        line: What it changes.
        comment: Why.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    parent = os.path.relpath(base, path.parent)
    path.write_text(f'# {comment}\n_base_ = {parent!r}\n{line}\n')
    return path

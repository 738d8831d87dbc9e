"""What the tools about eta build before they run."""

import copy
import os
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.fileio import join_path
from mmengine.runner import Runner
from mmengine.utils import is_abs
from torch import nn

from mmscope.datasets.wrappers import inner_datasets
from mmscope.engine.launch import build_runner, load_config
from mmscope.evaluation.task_metric import TaskMetric
from mmscope.models import require_exits
from mmscope.utils.config import metric_configs
from mmscope.utils.structures import unwrap

from .answering import device_name
from .answers import ExitAnswers
from .cache import AnswerCache
from .collect import collect_answers, count_gflops
from .collect_elastic import collect_elastic, count_share_gflops
from .elastic import ElasticAnswers, ElasticImage


def build_exit_runner(
    config: str,
    checkpoint: str,
    work_dir: str | None,
    options: dict | None = None,
    calibration: bool = False,
    launcher: str = 'none',
) -> Runner:
    """Build what the tools about eta need: model, weights, data, metric.

    Args:
        config: Config file of a model with exits.
        checkpoint: File of the model's weights.
        work_dir: Folder for logs.
        options: ``--cfg-options``.
        calibration: Let the test loop read the images for calibration, see
            :func:`set_calibration_data`.
        launcher: What started the processes that share the images, see
            :func:`build_runner`.

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
    return build_runner(cfg, launcher, ('test',), checkpoint)


def answers_of_run(
    runner: Runner,
    checkpoint: str,
    out_dir: Path,
    metric: TaskMetric,
    policies: Mapping[str, nn.Module] | None = None,
    indices: Sequence[int] | None = None,
) -> dict[str, ExitAnswers]:
    """Answer a run's test images, or read what is kept below its folder.

    Args:
        runner: Runner of :func:`build_exit_runner`.
        checkpoint: File of its weights.
        out_dir: Folder of the run.
        metric: Metric of the task.
        policies: More exit policies, see :func:`collect_answers`.
        indices: Places of the images in the dataset; by default all.

    Returns:
        The answers by policy, see :func:`collect_answers`.
    """
    model = unwrap(runner.model)
    cache = AnswerCache.of_run(
        out_dir, runner.cfg, checkpoint, device_name(model)
    )
    return collect_answers(
        model,
        runner.test_loop.dataloader,
        metric,
        cache,
        policies,
        count_gflops(model),
        indices,
    )


def elastic_of_run(
    runner: Runner,
    checkpoint: str,
    out_dir: Path,
    metric: TaskMetric,
    indices: Sequence[int] | None = None,
) -> ElasticAnswers:
    """The same with every share of cells, see :func:`collect_elastic`.

    Args:
        runner: Runner of :func:`build_exit_runner`.
        checkpoint: File of its weights.
        out_dir: Folder of the run.
        metric: Metric of the task.
        indices: Places of the images in the dataset; by default all.
    """
    model = unwrap(runner.model)
    cache = AnswerCache.of_run(
        out_dir, runner.cfg, checkpoint, device_name(model), ElasticImage
    )
    return collect_elastic(
        model,
        runner.test_loop.dataloader,
        metric,
        cache,
        count_share_gflops(model),
        indices,
    )


def set_calibration_data(cfg: Config) -> None:
    """Test on images that are not of the validation set.

    These are ``calibration_dataloader``'s where the config has one, and else
    training images under the test pipeline: each once, whatever repeats or
    mixes them in training, and those without objects, too. Annotation files
    of ``test_evaluator`` become those of these images.

    Args:
        cfg: Config to change.

    Raises:
        ValueError: one evaluator cannot judge images of several annotation
            files.
    """
    loader = copy.deepcopy(cfg.get('calibration_dataloader'))
    if loader is None:
        loader = copy.deepcopy(cfg.test_dataloader)
        test_set = next(inner_datasets(loader.dataset))
        parts = [
            _as_tested(dataset, test_set.pipeline)
            for dataset in inner_datasets(cfg.train_dataloader.dataset)
        ]
        loader.dataset = (
            parts[0]
            if len(parts) == 1
            else ConfigDict(type='ConcatDataset', datasets=parts)
        )
    cfg.test_dataloader = loader
    metrics = metric_configs(cfg.test_evaluator)
    metrics += [metric.task for metric in metrics if metric.get('task')]
    for metric in metrics:
        if metric.get('ann_file'):
            metric.ann_file = _ann_file_of(loader.dataset)


def _as_tested(dataset: ConfigDict, pipeline: list[dict]) -> ConfigDict:
    """A training set that is read as a test set: without filters."""
    dataset = copy.deepcopy(dataset)
    dataset.pop('filter_cfg', None)
    dataset.update(pipeline=pipeline, test_mode=True)
    return dataset


def _ann_file_of(dataset: ConfigDict) -> str:
    files = {
        part.ann_file
        if is_abs(part.ann_file)
        else join_path(part.get('data_root') or '', part.ann_file)
        for part in inner_datasets(dataset)
    }
    if len(files) > 1:
        raise ValueError(
            f'the images for calibration are those of {sorted(files)}, and a '
            'metric judges by one ann_file; set calibration_dataloader to '
            'one of them'
        )
    return files.pop()


def write_child_config(
    path: Path,
    base: str,
    changes: Mapping[str, object],
    comment: str,
    options: dict | None = None,
) -> Path:
    """Write a config that says how it differs from another.

    A pure-python config has no children in this form; its whole content is
    written instead.

    Args:
        path: File to write.
        base: File of the other config.
        changes: New values by key with dots; they replace the old ones.
        comment: Reason of the changes, for the first line.
        options: Changes that ``--cfg-options`` made before.
    """
    wanted = Config.fromfile(base)
    wanted.merge_from_dict(options or {})
    for key, value in changes.items():
        *parents, last = key.split('.')
        reduce(getitem, parents, wanted)[last] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    child = _difference(Config.fromfile(base).to_dict(), wanted.to_dict())
    text = Config(dict(_base_=_base_of(path, base), **child)).pretty_text
    path.write_text(f'# {comment}\n{text}')
    try:
        Config.fromfile(path)
    except RuntimeError:  # the other config is pure python
        path.write_text(f'# {comment}\n{wanted.pretty_text}')
    return path


def _base_of(path: Path, base: str) -> str:
    """How a config names another: relative, unless links are in the way."""
    relative = os.path.relpath(base, path.parent)
    if (path.parent / relative).resolve() == Path(base).resolve():
        return relative
    return os.path.abspath(base)


def _difference(old: dict, new: dict) -> dict:
    """What a child config says to turn one config into another."""
    if old.keys() - new.keys():
        return dict(_delete_=True, **new)
    changed = {}
    for key, value in new.items():
        if key not in old or not isinstance(value, dict):
            if key not in old or old[key] != value:
                changed[key] = value
        elif not isinstance(old[key], dict):
            changed[key] = dict(_delete_=True, **value)
        elif part := _difference(old[key], value):
            changed[key] = part
    return changed

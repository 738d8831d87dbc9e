"""What a config's data have and lack, before anything is trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope
from torch import Tensor

from mmscope.datasets.checks import is_remote
from mmscope.datasets.class_checks import check_classes
from mmscope.datasets.images import check_finite
from mmscope.datasets.problems import Problem, problem_of
from mmscope.datasets.transforms import FILE_KEYS
from mmscope.datasets.void_checks import check_void_label
from mmscope.datasets.wrappers import inner_datasets
from mmscope.utils.config import type_name

from .data_checks import checks_before, checks_of, explained


class SplitReport(NamedTuple):
    """What was found of one split.

    Args:
        split: 'train', 'val' or 'test'.
        dataset: Types of its datasets.
        folder: Where they lie.
        images: Number of images; 0 where they could not be listed.
        annotations: What the images have, with its number.
        opened: Samples that went through the pipeline.
        problems: What is wrong.
    """

    split: str
    dataset: str
    folder: str
    images: int
    annotations: str
    opened: int
    problems: list[Problem]


def report_data(
    cfg: Config, splits: tuple[str, ...], num_samples: int
) -> list[SplitReport]:
    """Look at the data of a config as a run will read them.

    Args:
        cfg: Complete config; no model is built.
        splits: Those of 'train', 'val' and 'test' to look at.
        num_samples: Samples of each split, evenly spread, that are read
            through its pipeline.

    Raises:
        ValueError: ``num_samples`` is negative.
    """
    if num_samples < 0:
        raise ValueError(
            f'the number of samples must be 0 or more, got {num_samples}'
        )
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return [_report_split(cfg, split, num_samples) for split in splits]


def _report_split(cfg: Config, split: str, num_samples: int) -> SplitReport:
    problems: list[Problem] = []
    loader = cfg.get(f'{split}_dataloader') or {}
    inner = list(inner_datasets(loader.get('dataset') or {}))
    names = ', '.join(dict.fromkeys(map(type_name, inner)))
    folders = ', '.join(
        dict.fromkeys(str(one.get('data_root') or '') for one in inner)
    )
    for check in checks_before(cfg, split):
        _collect(problems, check)
    if 'model' in cfg:
        _collect(problems, check_void_label, cfg, (split,))
    dataset = None
    # a missing folder would be told a second time, and less well
    if loader and not any('is not complete' in one.value for one in problems):
        dataset = _collect(problems, _build, cfg, split)
    if dataset is None:
        return SplitReport(split, names, folders, 0, '', 0, problems)
    for check in checks_of(dataset, cfg, split):
        _collect(problems, check)
    if 'model' in cfg:
        _collect(problems, check_classes, dataset, cfg, split)
    counts = _look_for_files(dataset, loader.dataset, problems)
    opened = 0
    for index in _spread(len(dataset), num_samples):
        before = len(problems)
        _collect(problems, _read, dataset, index)
        opened += len(problems) == before
    return SplitReport(
        split, names, folders, len(dataset), counts, opened, problems
    )


def _collect(
    problems: list[Problem], check: Callable[..., Any], *args: object
) -> Any:
    """Call a check; where it raises, keep the problem, each once."""
    try:
        return check(*args)
    except Exception as err:  # decoders and libraries raise anything
        if (found := problem_of(err)) not in problems:
            problems.append(found)
        return None


def _build(cfg: Config, split: str) -> BaseDataset:
    with explained(cfg, split):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        dataset.full_init()
    return dataset


def _read(dataset: BaseDataset, index: int) -> None:
    """Read a sample through the pipeline, and look at its pixels."""
    sample = dataset[index]
    image = sample.get('inputs') if isinstance(sample, dict) else None
    if isinstance(image, Tensor):
        path = dataset.get_data_info(index).get('img_path')
        name = f'sample {index}, {path}, as the pipeline leaves it,'
        check_finite(image.numpy(), name)


def _look_for_files(
    dataset: BaseDataset, cfg: Config, problems: list[Problem]
) -> str:
    """Count what the images have, and name files that are not there."""
    counts = {'masks': 0, 'objects': 0, 'labels': 0}
    missing = {key: [] for key in FILE_KEYS}
    pairs = zip(inner_datasets(dataset), inner_datasets(cfg), strict=False)
    for one, one_cfg in pairs:
        remote = is_remote(one_cfg.get('data_root') or '', one_cfg)
        for info in map(one.get_data_info, range(len(one))):
            counts['masks'] += bool(info.get('seg_map_path'))
            counts['objects'] += len(info.get('instances', ()))
            counts['labels'] += 'gt_label' in info
            for key in () if remote else FILE_KEYS:
                path = str(info.get(key) or '')
                if path and '://' not in path and not Path(path).is_file():
                    missing[key].append(path)
    for key, paths in missing.items():
        if paths:
            problems.append(_missing_files(key, paths))
    return ', '.join(f'{n} {name}' for name, n in counts.items() if n)


def _missing_files(key: str, paths: list[str]) -> Problem:
    kind, suffix = {
        'img_path': ('images', 'img_suffix'),
        'seg_map_path': ('masks', 'seg_map_suffix'),
    }[key]
    return Problem(
        f'{len(paths)} {kind} do not exist, the first is {paths[0]}',
        'every file that the dataset lists is there',
        f'put them there, take them from the list, or set {suffix}, '
        'data_prefix and ann_file',
    )


def _spread(total: int, number: int) -> list[int]:
    """Evenly spread indices, the first sample among them."""
    number = min(total, number)
    return [index * total // number for index in range(number)]

"""Which checks of data a run needs, in their order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from mmengine.config import Config
from mmengine.dataset import BaseDataset

from mmscope.datasets.checks import (
    check_annotations,
    check_dataset,
    check_evaluator,
    check_judging,
    check_masks,
    check_names,
    why_no_samples,
)
from mmscope.datasets.problems import Problem
from mmscope.utils.config import metric_configs, type_name

from .options import NAMING_HOOKS

Check = Callable[[], None]


def checks_before(cfg: Config, split: str) -> Iterator[Check]:
    """Checks of a split's paths, before anything is built.

    Args:
        cfg: Complete config.
        split: 'train', 'val' or 'test'.

    Yields:
        Functions that raise FileNotFoundError or ValueError.
    """
    name, loader = f'{split}_dataloader', cfg.get(f'{split}_dataloader')
    if loader is not None or split != 'val':
        yield partial(_check_loader, cfg, name)
    yield partial(check_dataset, loader)
    name = f'{split}_evaluator'
    yield partial(check_evaluator, name, cfg.get(name))


@contextmanager
def explained(cfg: Config, split: str) -> Iterator[None]:
    """Say why a dataset that is built inside the block cannot be.

    Args:
        cfg: Complete config.
        split: 'train', 'val' or 'test'.

    Raises:
        FileNotFoundError: the dataset found no samples.
        ValueError: an annotation file cannot be read, or lacks something.
    """
    dataset, name = cfg[f'{split}_dataloader'].dataset, f'{split}_evaluator'
    try:
        yield
    except Exception as err:
        check_annotations(dataset)
        check_judging(name, cfg.get(name), None, dataset)
        if 'need at least one array' not in str(err):
            raise
        raise FileNotFoundError(why_no_samples(dataset)) from err


def checks_of(
    dataset: BaseDataset, cfg: Config, split: str
) -> Iterator[Check]:
    """Checks of a dataset that has been built.

    Args:
        dataset: That of the split.
        cfg: Complete config.
        split: 'train', 'val' or 'test'.

    Yields:
        Functions that raise ValueError.
    """
    name, inner = f'{split}_evaluator', cfg[f'{split}_dataloader'].dataset
    yield partial(check_masks, dataset, inner)
    yield partial(check_judging, name, cfg.get(name), dataset, inner)
    if split == 'test':
        for folder in _answer_folders(cfg):
            yield partial(check_names, dataset, folder)


def _check_loader(cfg: Config, name: str) -> None:
    if cfg.get(name) is None:
        raise ValueError(
            Problem(
                f'{cfg.filename} has no {name}',
                'this split needs one',
                'set it, for testing for example to val_dataloader',
            )
        )


def _answer_folders(cfg: Config) -> list[str]:
    """Folders that get a file of each tested image, named after it."""
    metrics = metric_configs(cfg.get('test_evaluator'))
    folders = [metric.get('output_dir') for metric in metrics]
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if type_name(hook) in NAMING_HOOKS:
        folders.append(hook.get('test_out_dir'))
    return [folder for folder in folders if folder]

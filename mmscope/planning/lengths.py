"""How many images a config has, and how many steps it takes them in."""

from __future__ import annotations

import math

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmscope.datasets.checks import check_dataset
from mmscope.engine.data_checks import explained

from .schedule import Loop, Schedule


def length_of(cfg: Config, split: str) -> int | None:
    """Images of a split; None where its files are not here.

    Args:
        cfg: Complete config.
        split: 'train' or 'val'.
    """
    loader = cfg.get(f'{split}_dataloader')
    if not loader:
        return None
    try:
        check_dataset(loader)
    except FileNotFoundError:
        return None
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with explained(cfg, split):
        return len(DATASETS.build(loader.dataset))


def training_length(
    cfg: Config, loop: Loop, num_images: int | None
) -> int | None:
    """Images of the training set; None where nothing depends on it.

    Args:
        cfg: Complete config.
        loop: What it says about its training.
        num_images: What the user says.

    Raises:
        FileNotFoundError: epochs are counted, and neither files nor number
            are there.
    """
    if num_images is not None or not loop.by_epoch:
        return num_images
    length = length_of(cfg, 'train')
    if length is None:
        raise FileNotFoundError(
            f'{cfg.filename} trains {loop.length} epochs, and its training '
            'set is not here: say how many images it has with --num-images '
            '(ImageNet-1K has 1281167), or set '
            'train_dataloader.dataset.data_root with --cfg-options'
        )
    return length


def count_iterations(
    cfg: Config, loop: Loop, schedule: Schedule, length: int | None
) -> int:
    """Training steps of a process.

    Args:
        cfg: Complete config.
        loop: What it says about its training.
        schedule: Batch and number of processes.
        length: Images of the training set, where epochs are counted.
    """
    if not loop.by_epoch:
        return schedule.options.get('train_cfg.max_iters', loop.length)
    mine = math.ceil(length / schedule.gpus)
    drops = cfg.train_dataloader.get('drop_last', False)
    rounded = math.floor if drops else math.ceil
    return loop.length * max(1, rounded(mine / schedule.batch))


def validation_batches(cfg: Config, loop: Loop, gpus: int) -> int:
    """Batches that each process validates during the whole training.

    Args:
        cfg: Complete config, whose data are here.
        loop: What it says about its training.
        gpus: Number of processes.
    """
    length = length_of(cfg, 'val') or 0
    batch = cfg.val_dataloader.get('batch_size', 1)
    # the last epoch or iteration is always validated
    rounds = math.ceil(loop.length / loop.val_interval)
    return rounds * math.ceil(math.ceil(length / gpus) / batch)

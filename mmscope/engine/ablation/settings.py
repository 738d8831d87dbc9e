"""What a run of an ablation changes in a row's config, as cfg-options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mmengine.config import Config

from mmscope.utils.config import type_name

SPLITS = dict(train='train', val='val', test='val')
Options = dict[str, object]


@dataclass(frozen=True)
class FolderDataset:
    """A data set with a folder for each class, in train/ and val/.

    Attributes:
        title: Its name in reports.
        root: Where it is by default.
        num_classes: Classes.
        side: Side of what is seen of an image, in pixels.
        stored: Shorter side that images are tested at before the crop.
        patch_size: Side of a patch, which keeps the paper's grids.
    """

    title: str
    root: str
    num_classes: int
    side: int
    stored: int
    patch_size: int


# None: as the configs have it
DATASETS = dict(
    mini_imagenet=None,
    imagenette=FolderDataset(
        *('Imagenette', 'data/imagenette128'),
        num_classes=10,
        side=112,
        stored=128,
        patch_size=8,
    ),
)


def dataset_title(name: str) -> str:
    """Name of a data set in reports.

    Args:
        name: One of ``DATASETS``.
    """
    dataset = DATASETS[name]
    return 'miniImageNet' if dataset is None else dataset.title


def data_options(cfg: Config, name: str, root: str | None = None) -> Options:
    """Options that let a config read another data set, or another folder.

    Args:
        cfg: Config of a row.
        name: One of ``DATASETS``.
        root: Folder of the data; by default that of the config, or the data
            set's own.

    Raises:
        ValueError: there is no such data set.
    """
    if name not in DATASETS:
        raise ValueError(
            f'there is no data set {name!r}; choose from {", ".join(DATASETS)}'
        )
    dataset = DATASETS[name]
    options: Options = {}
    if dataset is not None:
        root = root or dataset.root
        options = dict(_folder_options(cfg, dataset))
    if root:
        for split in SPLITS:
            options[f'{split}_dataloader.dataset.data_root'] = str(root)
    return options


def _folder_options(
    cfg: Config, dataset: FolderDataset
) -> Iterator[tuple[str, object]]:
    """Options of classes, sizes and folders."""
    yield 'data_preprocessor.num_classes', dataset.num_classes
    backbone = 'model.backbone'
    yield f'{backbone}.exit_head.num_classes', dataset.num_classes
    yield f'{backbone}.img_size', dataset.side
    yield f'{backbone}.patch_size', dataset.patch_size
    sizes = {
        'RandomResizedCrop': ('scale', dataset.side),
        'ResizeEdge': ('scale', dataset.stored),
        'CenterCrop': ('crop_size', dataset.side),
    }
    for split, folder in SPLITS.items():
        key = f'{split}_dataloader.dataset'
        yield f'{key}.ann_file', ''
        yield f'{key}.data_prefix', folder
        steps = cfg[f'{split}_dataloader'].dataset.pipeline
        for number, step in enumerate(steps):
            if type_name(step) in sizes:
                name, size = sizes[type_name(step)]
                yield f'{key}.pipeline.{number}.{name}', size


def epoch_options(cfg: Config, epochs: int) -> Options:
    """Options that scale a config's schedule to another number of epochs.

    Warm-up, cosine, intervals of validation and checkpoints keep their share
    of training, the average of weights its reach. The share of it at full
    refinement is one already.

    Args:
        cfg: Config of a row, with the schedule of configs/ablation.
        epochs: Epochs to train for.

    Raises:
        ValueError: ``epochs`` is not positive.
    """
    if epochs < 1:
        raise ValueError(f'epochs must be at least 1, got {epochs}')
    share = epochs / cfg.train_cfg.max_epochs

    def scaled(number: int) -> int:
        return max(1, round(number * share))

    warm_up = scaled(cfg.param_scheduler[0].end)
    hooks = cfg.default_hooks
    return {
        'train_cfg.max_epochs': epochs,
        'train_cfg.val_interval': scaled(cfg.train_cfg.val_interval),
        'param_scheduler.0.end': warm_up,
        'param_scheduler.1.begin': warm_up,
        'param_scheduler.1.end': epochs,
        'default_hooks.checkpoint.interval': scaled(hooks.checkpoint.interval),
        'default_hooks.ema.momentum': min(1.0, hooks.ema.momentum / share),
    }

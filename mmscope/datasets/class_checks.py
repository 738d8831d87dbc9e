"""One number of classes, wherever a config says how many there are."""

from collections.abc import Iterator

from mmengine.config import Config
from mmengine.dataset import BaseDataset

from mmscope.utils.config import model_config, type_name

from .problems import Problem
from .wrappers import inner_datasets

# tells objects from ground, whatever their classes
CLASSLESS = ('rpn_head',)


def check_classes(dataset: BaseDataset, cfg: Config, split: str) -> None:
    """Refuse a config whose parts know other classes than the dataset.

    A head with too many trains, on classes that never come.

    Args:
        dataset: That of the split; one without names of classes passes.
        cfg: Complete config.
        split: 'train', 'val' or 'test'.

    Raises:
        ValueError: a ``num_classes`` is another number.
    """
    classes = dataset.metainfo.get('classes')
    if not classes:
        return
    parts = {'model': model_config(cfg)}
    for inner in inner_datasets(cfg[f'{split}_dataloader'].dataset):
        for step in inner.get('pipeline') or ():
            parts[f'{split}_pipeline: {type_name(step)}'] = step
    wrong = [
        f'{name} is {found}'
        for part, value in parts.items()
        for name, found in _counts(part, value)
        if found != len(classes)
    ]
    if wrong:
        raise ValueError(
            Problem(
                ', '.join(wrong),
                f'the {split} dataset has {len(classes)} classes',
                f'set each to {len(classes)}, or metainfo.classes of the '
                'dataset',
            )
        )


def _counts(name: str, value: object) -> Iterator[tuple[str, int]]:
    """Every num_classes inside of a config, by its key."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == 'num_classes' and inner is not None:
                yield f'{name}.{key}', inner
            elif key not in CLASSLESS:
                yield from _counts(f'{name}.{key}', inner)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _counts(f'{name}.{index}', inner)

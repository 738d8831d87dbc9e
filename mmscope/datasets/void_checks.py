"""One label of no class, wherever a config says which it is."""

from collections.abc import Iterator

from mmengine.config import Config, ConfigDict

from mmscope.utils.config import metric_configs, model_config, type_name

from .problems import Problem
from .wrappers import inner_datasets

DEFAULT = 255  # of mmseg
IGNORING = ('CheckLabels', 'ExitMetric', 'IoUMetric')


def check_void_label(cfg: Config, splits: tuple[str, ...]) -> None:
    """Refuse a segmentation config whose parts ignore different labels.

    The loss would fail on a label that it knows neither as class nor as
    void, and a metric would count void pixels.

    Args:
        cfg: Complete config; those without a decode head pass.
        splits: Those of 'train', 'val' and 'test' that will run.

    Raises:
        ValueError: a part ignores another label than the decode head.
    """
    heads = _as_list(cfg.model.get('decode_head'))
    if not heads:
        return
    label = heads[-1].get('ignore_index', DEFAULT)
    for name, key, part in _parts(cfg, splits):
        found = part.get(key, DEFAULT)
        # a metric may leave out a class on purpose, as the background
        wanted = key in part and label == DEFAULT and name.endswith('Metric')
        if found != label and not wanted:
            raise ValueError(
                Problem(
                    f'{name}.{key} is {found}, and decode_head.ignore_index '
                    f'is {label}',
                    'pixels of no class have one label everywhere',
                    f'set {key}={label} there',
                )
            )


def _parts(
    cfg: Config, splits: tuple[str, ...]
) -> Iterator[tuple[str, str, ConfigDict]]:
    """What knows the label: its name, the key, and its config."""
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for dataset in inner_datasets(loader.get('dataset') or {}):
            for step in dataset.get('pipeline') or ():
                yield from _ignoring(f'{split}_pipeline', step)
        for metric in metric_configs(cfg.get(f'{split}_evaluator')):
            yield from _ignoring(f'{split}_evaluator', metric)
    if 'train' in splits:
        for head in _as_list(cfg.model.get('auxiliary_head')):
            yield 'auxiliary_head', 'ignore_index', head
        preprocessor = model_config(cfg).get('data_preprocessor')
        if preprocessor:
            yield 'data_preprocessor', 'seg_pad_val', preprocessor


def _ignoring(
    where: str, part: ConfigDict
) -> Iterator[tuple[str, str, ConfigDict]]:
    kind = type_name(part)
    if kind in IGNORING:
        yield f'{where}: {kind}', 'ignore_index', part


def _as_list(heads: object) -> list[ConfigDict]:
    heads = heads if isinstance(heads, list | tuple) else [heads]
    return [head for head in heads if head]

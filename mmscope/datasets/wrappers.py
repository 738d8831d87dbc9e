"""Datasets inside of datasets: RepeatDataset, ConcatDataset and the like."""

from collections.abc import Iterator, Mapping


def inner_datasets(dataset: object) -> Iterator[object]:
    """Find the datasets that read files inside of others.

    Args:
        dataset: A dataset or the config of one: of mmengine, mmseg or mmdet;
            wrappers hold others as ``dataset`` or ``datasets``.

    Yields:
        Those that hold no others, in order; the dataset itself if it is no
        wrapper.
    """
    parts = dataset if isinstance(dataset, Mapping) else vars(dataset)
    inner = parts.get('datasets') or parts.get('dataset')
    if inner is None:
        yield dataset
        return
    for one in inner if isinstance(inner, list | tuple) else [inner]:
        yield from inner_datasets(one)

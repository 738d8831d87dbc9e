from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset

from mmscope.datasets.wrappers import inner_datasets


def test_the_datasets_inside_of_built_ones() -> None:
    one, other = (
        BaseDataset(lazy_init=True, metainfo=dict(classes=('a',)))
        for _ in range(2)
    )
    repeated = RepeatDataset(one, times=2, lazy_init=True)
    joined = ConcatDataset([one, other], lazy_init=True)
    assert list(inner_datasets(one)) == [one]
    assert list(inner_datasets(repeated)) == [one]
    assert list(inner_datasets(joined)) == [one, other]


def test_the_datasets_inside_of_described_ones() -> None:
    one, other = ConfigDict(type='A'), ConfigDict(type='B')
    repeated = ConfigDict(type='RepeatDataset', dataset=other)
    joined = ConfigDict(type='ConcatDataset', datasets=[one, repeated])
    assert list(inner_datasets(one)) == [one]
    assert list(inner_datasets(joined)) == [one, other]

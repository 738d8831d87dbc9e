"""What is said of datasets that are not where a config says."""

import re
from pathlib import Path

import pytest
from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset

from mmscope.datasets.checks import check_dataset, check_names, why_no_samples

PREFIX = dict(img_path='images/training', seg_map_path='annotations/training')


def loader(root: Path, **settings: object) -> ConfigDict:
    dataset = dict(
        type='ADE20KDataset',
        data_root=str(root),
        data_prefix=PREFIX,
        **settings,
    )
    return ConfigDict(dataset=dataset)


def test_complete_data_and_foreign_settings_pass(tmp_path: Path) -> None:
    for folder in PREFIX.values():
        (tmp_path / folder).mkdir(parents=True)
    check_dataset(loader(tmp_path))
    check_dataset(None)
    check_dataset(ConfigDict(dataset=dict(type='CIFAR10')))


def test_missing_folder_shows_the_tree(tmp_path: Path) -> None:
    (tmp_path / 'images/training').mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as error:
        check_dataset(loader(tmp_path, ann_file='train.txt'))
    message = str(error.value)
    assert f'data_root={str(tmp_path)!r}' in message
    assert '--cfg-options train_dataloader.dataset.data_root=' in message
    tree = [line.strip() for line in message.splitlines()[2:5]]
    assert tree == [
        'annotations/training    <- missing',
        'images/training',
        'train.txt    <- missing',
    ]


def test_a_prefix_may_be_a_folder_as_in_mmpretrain(tmp_path: Path) -> None:
    (tmp_path / 'train').mkdir()
    settings = dict(type='CustomDataset', data_root=str(tmp_path))
    check_dataset(dict(dataset=dict(settings, data_prefix='train')))
    with pytest.raises(FileNotFoundError, match='val    <- missing'):
        check_dataset(dict(dataset=dict(settings, data_prefix='val')))


def test_wrapped_datasets_are_looked_into(tmp_path: Path) -> None:
    inner = loader(tmp_path).dataset
    for wrapped in (
        dict(type='RepeatDataset', times=2, dataset=inner),
        dict(type='ConcatDataset', datasets=[inner, inner]),
        dict(type='ClassBalancedDataset', oversample_thr=1, dataset=inner),
    ):
        with pytest.raises(FileNotFoundError, match='images/training    <- m'):
            check_dataset(ConfigDict(dataset=wrapped))


@pytest.mark.parametrize(
    'settings',
    [
        dict(ann_file=['a.txt', 'b.txt']),
        dict(data_prefix=dict(img_path=['a', 'b'])),
        dict(data_prefix=dict(img_path='a', seg_map_path=None)),
    ],
)
def test_a_path_is_one_path(tmp_path: Path, settings: dict) -> None:
    broken = ConfigDict(dataset=dict(loader(tmp_path).dataset, **settings))
    with pytest.raises(
        ValueError, match='is .*; it must be one path: .*Concat'
    ):
        check_dataset(broken)


def test_data_elsewhere_are_not_missing(tmp_path: Path) -> None:
    """They are on a server, in a store, or below no root."""
    store = loader(tmp_path, backend_args=dict(backend='petrel'))
    bucket = loader(tmp_path)
    bucket.dataset.data_root = 's3://bucket/ade'
    server = ConfigDict(
        dataset=dict(
            type='BaseSegDataset',
            data_root='',
            data_prefix=dict(img_path='http://host/images'),
            ann_file='http://host/list.txt',
        )
    )
    for one in (store, bucket, server):
        check_dataset(one)
    # the list of a server's images is on this machine
    server.dataset.ann_file = str(tmp_path / 'list.txt')
    with pytest.raises(FileNotFoundError, match=r'list.txt    <- missing'):
        check_dataset(server)


def test_what_cannot_be_done_over_http_is_said() -> None:
    dataset = dict(
        type='BaseSegDataset', data_prefix=dict(img_path='http://host/images')
    )
    with pytest.raises(ValueError, match='cannot be listed.*set ann_file'):
        check_dataset(ConfigDict(dataset=dataset))
    dataset = dict(dataset, data_root='https://host', ann_file='a.json')
    with pytest.raises(ValueError, match="joins no paths.*data_root=''"):
        check_dataset(ConfigDict(dataset=dataset))


@pytest.mark.parametrize(
    ('ann_file', 'reason'),
    [
        ('', 'do not end in img_suffix'),
        ('list.txt', 'list.txt lists no image'),
        ('a.json', r'a.json has no image with one of its classes'),
    ],
)
def test_no_samples_are_blamed_on_what_was_read(
    tmp_path: Path, ann_file: str, reason: str
) -> None:
    one = loader(tmp_path, ann_file=ann_file).dataset
    for cfg in (one, dict(type='RepeatDataset', times=2, dataset=one)):
        text = str(why_no_samples(ConfigDict(cfg)))
        assert text.startswith(f'ADE20KDataset found no samples in {tmp_path}')
        assert re.search(reason, text)


class Listed(BaseDataset):
    """Images that are told."""

    def __init__(self, *paths: str) -> None:
        self.paths = paths
        super().__init__(serialize_data=False)

    def load_data_list(self) -> list[dict]:
        return [dict(img_path=path) for path in self.paths]


def test_answers_of_equal_names_are_refused() -> None:
    check_names(Listed('a/1.jpg', 'a/2.jpg', 'a/1.jpg'), 'out')
    with pytest.raises(
        ValueError, match='a/1.jpg and b/1.png have the same .* written to out'
    ):
        check_names(Listed('a/1.jpg', 'b/1.png'), 'out')

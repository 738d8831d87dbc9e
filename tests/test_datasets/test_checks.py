"""What is said of datasets that are not where a config says."""

from pathlib import Path

import pytest
from mmengine.config import ConfigDict

from mmscope.datasets.checks import check_dataset

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

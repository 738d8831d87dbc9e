"""What the tools about eta do to configs."""

import copy
import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmscope.exits.runs import (
    set_calibration_data,
    write_child_config,
)

BASE = """
model = dict(
    backbone=dict(arch='tiny', eta=1.0, exit_policy=None),
    head=dict(type='H', channels=[1, 2]),
)
test_evaluator = [dict(type='CocoMetric', ann_file='val.json')]
"""
PURE = """
from mmseg.models import EncoderDecoder

model = dict(type=EncoderDecoder, backbone=dict(type='B', eta=1.0))
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / 'configs' / 'base.py'
    path.parent.mkdir()
    path.write_text(BASE)
    return path


def read(path: Path) -> dict:
    return Config.fromfile(path).to_dict()


def write_eta(path: Path, base: Path, options: dict | None = None) -> Path:
    changes = {'model.backbone.eta': 0.75}
    return write_child_config(path, str(base), changes, 'why', options)


def test_a_child_says_only_what_differs(base, tmp_path) -> None:
    path = write_eta(tmp_path / 'out' / 'child.py', base)
    assert path.read_text() == (
        "# why\n_base_ = '../configs/base.py'\n"
        'model = dict(backbone=dict(eta=0.75))\n'
    )
    wanted = read(base)
    wanted['model']['backbone']['eta'] = 0.75
    assert read(path) == wanted


@pytest.mark.parametrize(
    'options',
    [
        {'model.head.channels': [3]},
        {'test_evaluator.0.ann_file': 'other.json'},
        {'model.backbone.arch': dict(_delete_=True, embed_dims=32)},
        {'model.head': None, 'model.neck.type': 'N'},
        {'model.head._delete_': True, 'model.head.type': 'G'},
        {'data_root': 'elsewhere'},
    ],
)
def test_a_child_keeps_what_the_command_line_changed(
    base, tmp_path, options
) -> None:
    wanted = Config.fromfile(base)
    wanted.merge_from_dict(options)
    wanted.model.backbone.eta = 0.75
    path = write_eta(tmp_path / 'out' / 'child.py', base, options)
    assert read(path) == wanted.to_dict()


@pytest.mark.parametrize(
    'before', [None, dict(type='Pixel', window=3), dict(type='Router', a=2)]
)
def test_a_policy_replaces_any_other(base, tmp_path, before) -> None:
    base.write_text(BASE.replace('exit_policy=None', f'exit_policy={before}'))
    policy = dict(type='Router', in_channels=3)
    path = write_child_config(
        tmp_path / 'child.py',
        str(base),
        {'model.backbone.exit_policy': policy},
        'why',
    )
    assert read(path)['model']['backbone']['exit_policy'] == policy


def test_a_child_finds_its_base_through_a_link(base, tmp_path) -> None:
    (tmp_path / 'far' / 'away').mkdir(parents=True)
    (tmp_path / 'link').symlink_to(tmp_path / 'far' / 'away')
    path = write_eta(tmp_path / 'link' / 'child.py', base)
    assert read(path)['model']['backbone']['eta'] == 0.75


def test_a_pure_python_config_is_written_whole(base, tmp_path) -> None:
    base.write_text(PURE)
    model = read(write_eta(tmp_path / 'child.py', base))['model']
    assert model['backbone'] == dict(type='B', eta=0.75)
    assert model['type'] == 'mmseg.models.EncoderDecoder'


COCO = dict(
    type='CocoDataset',
    data_root='data/',
    ann_file='train.json',
    filter_cfg=dict(filter_empty_gt=True, min_size=32),
    pipeline=['train'],
)
OTHER = dict(COCO, ann_file='/more/train.json')
TESTED = dict(
    type='CocoDataset',
    data_root='data/',
    ann_file='train.json',
    pipeline=['test'],
    test_mode=True,
)


def calibrated(train: dict, test: dict | None = None) -> dict:
    """The config that reads its calibration images of a training set."""
    test = test or dict(COCO, ann_file='val.json', pipeline=['test'])
    cfg = Config(
        dict(
            train_dataloader=dict(batch_size=9, dataset=train),
            test_dataloader=dict(batch_size=2, dataset=test),
            test_evaluator=[
                dict(type='CocoMetric', ann_file='data/val.json'),
                dict(type='ExitMetric', task=dict(ann_file='data/val.json')),
                dict(type='Other', ann_file=None),
            ],
        )
    )
    set_calibration_data(cfg)
    return cfg.to_dict()


@pytest.mark.parametrize(
    'train',
    [
        COCO,
        dict(type='RepeatDataset', times=3, dataset=COCO),
        dict(
            type='ClassBalancedDataset',
            oversample_thr=0.1,
            dataset=dict(type='ConcatDataset', datasets=[COCO]),
        ),
        dict(type='MultiImageMixDataset', dataset=COCO, pipeline=['mix']),
    ],
)
def test_training_images_are_read_once_and_all_of_them(train) -> None:
    cfg = calibrated(train)
    assert cfg['test_dataloader'] == dict(batch_size=2, dataset=TESTED)
    judge, beside, third = cfg['test_evaluator']
    assert judge['ann_file'] == beside['task']['ann_file'] == 'data/train.json'
    assert third['ann_file'] is None


def test_several_training_sets_stay_together() -> None:
    wrapped = dict(type='RepeatDataset', times=2, dataset=COCO)
    train = dict(type='ConcatDataset', datasets=[wrapped, COCO])
    test = dict(type='ConcatDataset', datasets=[dict(pipeline=['test'])])
    dataset = calibrated(train, test)['test_dataloader']['dataset']
    assert dataset == dict(type='ConcatDataset', datasets=[TESTED] * 2)
    train['datasets'] = [wrapped, OTHER]
    with pytest.raises(ValueError, match='calibration_dataloader'):
        calibrated(train)


def test_images_without_objects_calibrate_too(tmp_path) -> None:
    """And each once, where training repeats them and leaves some out."""
    init_default_scope('mmdet')
    box = dict(id=1, image_id=1, bbox=[0, 0, 40, 40], area=1600, iscrowd=0)
    content = dict(
        images=[
            dict(id=i, file_name=f'{i}.jpg', height=50, width=50)
            for i in (1, 2, 3)
        ],
        annotations=[dict(box, category_id=1)],
        categories=[dict(id=1, name='a')],
    )
    (tmp_path / 'train.json').write_text(json.dumps(content))
    train = dict(
        COCO,
        data_root=f'{tmp_path}/',
        data_prefix=dict(img=''),
        metainfo=dict(classes=('a',)),
    )
    train = dict(type='RepeatDataset', times=2, dataset=dict(train))
    train['dataset']['pipeline'] = []
    assert len(DATASETS.build(copy.deepcopy(train))) == 2
    for wrapped, count in (
        (train, 3),
        (dict(type='ConcatDataset', datasets=[train, train]), 6),
    ):
        test = dict(pipeline=[])
        cfg = calibrated(copy.deepcopy(wrapped), test)
        assert len(DATASETS.build(cfg['test_dataloader']['dataset'])) == count


def test_images_for_calibration_are_read_as_their_config_says() -> None:
    own = dict(batch_size=3, dataset=dict(OTHER, pipeline=['own']))
    cfg = Config(
        dict(
            calibration_dataloader=own,
            test_evaluator=dict(type='CocoMetric', ann_file='val.json'),
        )
    )
    set_calibration_data(cfg)
    assert cfg.test_dataloader.to_dict() == own
    assert cfg.test_evaluator.ann_file == '/more/train.json'

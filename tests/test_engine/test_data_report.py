"""What is said of a config's data: counts, and problems with their fix."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

from mmscope.engine.data_report import SplitReport, report_data
from mmscope.engine.launch import load_config

CONFIGS = Path(__file__).parents[2] / 'configs'
SPLITS = ('train', 'val')


@pytest.fixture(autouse=True)
def no_scope_remains() -> None:
    yield
    DefaultScope._instance_dict.clear()


def real_config(name: str, root: Path) -> Config:
    cfg = load_config(str(CONFIGS / name))
    for split in SPLITS:
        cfg[f'{split}_dataloader'].dataset.data_root = str(root)
    return cfg


def counts(report: SplitReport) -> tuple[int, str, int, list]:
    return report.images, report.annotations, report.opened, report.problems


def test_real_masks(real_data: Path) -> None:
    cfg = real_config('upernet/mambascope_t_ade20k.py', real_data / 'ade_mini')
    train, val = report_data(cfg, SPLITS, 2)
    assert counts(train) == (8, '8 masks', 2, [])
    assert counts(val) == (24, '24 masks', 2, [])
    assert train.dataset == 'ADE20KDataset'
    assert train.folder == str(real_data / 'ade_mini')


def test_real_objects(real_data: Path) -> None:
    root = real_data / 'coco_mini'
    cfg = real_config('cascade_mask_rcnn/mambascope_t_coco.py', root)
    truth = root / 'annotations/instances_val2017.json'
    cfg.val_evaluator[0].ann_file = str(truth)
    train, val = report_data(cfg, SPLITS, 2)
    objects = json.loads(truth.read_text())['annotations']
    assert counts(val) == (50, f'{len(objects)} objects', 2, [])
    # those without objects are left out of training
    assert train.images < 64
    assert train.problems == []


def test_real_classes(real_data: Path) -> None:
    root = real_data / 'imagenette128'
    cfg = real_config('evidence/imagenette_paper.py', root)
    train, val = report_data(cfg, SPLITS, 2)
    assert counts(train) == (9469, '9469 labels', 2, [])
    assert counts(val) == (3925, '3925 labels', 2, [])
    dataset = cfg.train_dataloader.dataset
    dataset.classes = dataset.classes[:-1]
    (found,) = report_data(cfg, ('train',), 2)
    assert found.images == 0
    assert "(10) doesn't match" in found.problems[0].value


def remove_mask(mask: Path, photo: Path) -> None:
    mask.unlink()


def remove_folder(mask: Path, photo: Path) -> None:
    shutil.rmtree(mask.parent)


def corrupt_photo(mask: Path, photo: Path) -> None:
    photo.write_bytes(photo.read_bytes()[:50])


def colour_mask(mask: Path, photo: Path) -> None:
    labels = np.asarray(Image.open(mask))
    Image.fromarray(np.stack([labels, labels, labels], -1)).save(mask)


def add_label(mask: Path, photo: Path) -> None:
    labels = np.array(Image.open(mask))
    labels[0] = 200
    Image.fromarray(labels).save(mask)


@pytest.mark.parametrize(
    ('damage', 'value', 'rule', 'fix'),
    [
        (remove_mask, '1 masks do not exist', 'is there', 'seg_map_suffix'),
        (remove_folder, 'is not complete', 'validation    <- missi', 'put it'),
        (corrupt_photo, 'failed to load image', 'every sample', 'compare'),
        (colour_mask, 'has the shape', 'one channel', 'keep the first one'),
        (add_label, r'has the labels [199]', '0 to 149 and 255', 'num_clas'),
    ],
)
def test_damage_is_named_with_its_fix(
    sample_root: Path,
    tmp_path: Path,
    tiny_config: Callable[..., Path],
    damage: Callable[[Path, Path], None],
    value: str,
    rule: str,
    fix: str,
) -> None:
    root = tmp_path / 'data'
    shutil.copytree(sample_root, root)
    masks = sorted((root / 'annotations/validation').glob('*.png'))
    photos = sorted((root / 'images/validation').glob('*.jpg'))
    damage(masks[0], photos[0])
    cfg = load_config(str(tiny_config(data=root)))
    train, val = report_data(cfg, SPLITS, 3)
    assert train.problems == []
    assert train.opened == 3
    found = val.problems[0]
    assert value in found.value
    assert rule in found.rule
    assert fix in found.fix
    assert val.opened == (0 if damage is remove_folder else 2)


def test_every_number_of_classes_is_that_of_the_dataset(
    tiny_config: Callable[..., Path],
) -> None:
    cfg = load_config(str(tiny_config()))
    cfg.model.backbone.exit_head.num_classes = 7
    cfg.model.decode_head.num_classes = 8
    check = dict(type='mmscope.CheckLabels', num_classes=9)
    cfg.train_dataloader.dataset.pipeline[2] = check
    train, val = report_data(cfg, SPLITS, 0)
    heads = (
        'model.backbone.exit_head.num_classes is 7',
        'model.decode_head.num_classes is 8',
    )
    (problem,) = val.problems
    assert sorted(problem.value.split(', ')) == sorted(heads)
    assert problem.rule == 'the val dataset has 150 classes'
    assert 'train_pipeline: CheckLabels.num_classes is 9' in (
        train.problems[0].value
    )


def test_a_config_without_the_split_says_so(
    tiny_config: Callable[..., Path],
) -> None:
    cfg = load_config(str(tiny_config()))
    cfg.test_dataloader = None
    (found,) = report_data(cfg, ('test',), 1)
    assert 'has no test_dataloader' in found.problems[0].value
    with pytest.raises(ValueError, match='0 or more, got -1'):
        report_data(cfg, ('val',), -1)

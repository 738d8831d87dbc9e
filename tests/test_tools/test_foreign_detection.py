"""Detectors on data sets that are not ours."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from test_detection import write_config

from mmscope.registry import MODELS

# the mask head needs masks, which this layout has not
VOC = """
model['roi_head'].update(mask_head=None, mask_roi_extractor=None)
load_image = dict(type='LoadImageFromFile')
load_boxes = dict(type='LoadAnnotations', with_bbox=True)
pack = _base_.test_pipeline[-1]
voc = dict(
    _delete_=True,
    type='VOCDataset',
    data_root='{root}/',
    metainfo=_base_.metainfo,
    ann_file='VOC2007/ImageSets/Main/test.txt',
    data_prefix=dict(sub_data_root='VOC2007/'),
)
train_dataloader['dataset'] = dict(
    voc, pipeline=[load_image, load_boxes, resize, dict(type='PackDetInputs')]
)
val_dataloader['dataset'] = dict(
    voc, test_mode=True, pipeline=[load_image, resize, load_boxes, pack]
)
val_evaluator = [
    dict(type='VOCMetric', metric='mAP', eval_mode='11points'),
    dict(type='mmscope.ExitMetric'),
]
"""


def write_voc(coco: Path, root: Path) -> None:
    """Write COCO's validation set in the layout of VOC2007."""
    folder = root / 'VOC2007'
    shutil.copytree(coco / 'val2017', folder / 'JPEGImages')
    for name in ('Annotations', 'ImageSets/Main'):
        (folder / name).mkdir(parents=True)
    content = json.loads(
        (coco / 'annotations/instances_val2017.json').read_text()
    )
    names = {one['id']: one['name'] for one in content['categories']}
    stems = []
    for image in content['images']:
        objects = ''
        for one in content['annotations']:
            if one['image_id'] == image['id']:
                left, top, width, height = one['bbox']
                objects += (
                    f'<object><name>{names[one["category_id"]]}</name>'
                    f'<difficult>0</difficult><bndbox><xmin>{left + 1}</xmin>'
                    f'<ymin>{top + 1}</ymin><xmax>{left + width}</xmax>'
                    f'<ymax>{top + height}</ymax></bndbox></object>'
                )
        stems.append(Path(image['file_name']).stem)
        (folder / 'Annotations' / f'{stems[-1]}.xml').write_text(
            f'<annotation><size><width>{image["width"]}</width>'
            f'<height>{image["height"]}</height></size>{objects}</annotation>'
        )
    text = ''.join(f'{stem}\n' for stem in stems)
    (folder / 'ImageSets/Main/test.txt').write_text(text)


def test_voc_is_trained_and_judged(
    train: Callable[..., Runner], sample_root: Path, tmp_path: Path
) -> None:
    write_voc(sample_root, tmp_path / 'voc')
    more = VOC.format(root=tmp_path / 'voc')
    runner = train(
        write_config(tmp_path, sample_root, more), tmp_path / 'work'
    )
    scores = runner.message_hub.log_scalars
    assert 0 <= scores['val/pascal_voc/mAP'].current() <= 1
    assert 0 <= scores['val/exit/rate'].current() <= 1


FORMAT_ONLY = """
test_dataloader['dataset'].update(ann_file='annotations/images.json')
test_evaluator = [
    dict(
        type='CocoMetric',
        ann_file='{data}/annotations/images.json',
        metric='bbox',
        format_only=True,
        outfile_prefix='{out}/found',
    ),
    dict(type='mmscope.ExitMetric'),
]
"""


def test_images_without_annotations_are_answered(
    run_tool, sample_root: Path, tmp_path: Path
) -> None:
    """As those of COCO's test set are, whose file has no such list."""
    data, out = tmp_path / 'data', tmp_path / 'out'
    shutil.copytree(sample_root, data)
    content = json.loads(
        (data / 'annotations/instances_val2017.json').read_text()
    )
    del content['annotations']
    (data / 'annotations/images.json').write_text(json.dumps(content))
    more = FORMAT_ONLY.format(data=data, out=out)
    config = write_config(tmp_path, data, more)
    init_default_scope('mmdet')
    model = MODELS.build(Config.fromfile(config).model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'any.pth')
    run_tool(
        *('test.py', config, tmp_path / 'any.pth'),
        *('--work-dir', tmp_path / 'test', '--out', out),
    )
    found = json.loads((out / 'predictions.bbox.json').read_text())
    known = {image['id'] for image in content['images']}
    assert {one['image_id'] for one in found} <= known
    metrics = json.loads((out / 'metrics.json').read_text())
    assert 0 <= metrics['exit/rate'] <= 1


def test_pictures_of_equal_names_are_not_lost(
    run_tool, sample_root: Path, tmp_path: Path
) -> None:
    """mmdet names them after the file alone."""
    data, out = tmp_path / 'data', tmp_path / 'show'
    shutil.copytree(sample_root, data)
    path = data / 'annotations/instances_val2017.json'
    content = json.loads(path.read_text())
    first, second, *_ = content['images']
    second['file_name'] = f'more/{first["file_name"]}'
    (data / 'val2017/more').mkdir()
    shutil.copy(
        data / 'val2017' / first['file_name'],
        data / 'val2017' / second['file_name'],
    )
    path.write_text(json.dumps(content))
    config = write_config(tmp_path, data)
    torch.save(dict(state_dict=dict(a=torch.zeros(1))), tmp_path / 'any.pth')
    with pytest.raises(ValueError, match='same name.*written to .*show'):
        run_tool(
            *('test.py', config, tmp_path / 'any.pth'),
            *('--work-dir', tmp_path / 'test', '--show-dir', out),
        )


def drop_iscrowd(content: dict) -> None:
    del content['annotations'][3]['iscrowd']


def rename_images(content: dict) -> None:
    for image in content['images']:
        image['id'] += 1000
    content['annotations'] = []


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (drop_iscrowd, r"judge.json: annotations\[3\].*has no 'iscrowd'"),
        (rename_images, r'val_evaluator.0.ann_file does not know img_id'),
    ],
)
def test_a_file_that_cannot_judge_is_named_before_training(
    train, sample_root: Path, tmp_path: Path, damage, message: str
) -> None:
    """pycocotools would fail when all predictions have been made."""
    content = json.loads(
        (sample_root / 'annotations/instances_val2017.json').read_text()
    )
    damage(content)
    (tmp_path / 'judge.json').write_text(json.dumps(content))
    more = f"val_evaluator[0]['ann_file'] = '{tmp_path}/judge.json'\n"
    config = write_config(tmp_path, sample_root, more)
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path / 'work')
    assert not list(tmp_path.rglob('*.pth'))


def test_objects_without_masks_are_named_before_training(
    train, sample_root: Path, tmp_path: Path
) -> None:
    data = tmp_path / 'data'
    shutil.copytree(sample_root, data)
    path = data / 'annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    content['annotations'][3]['segmentation'] = []
    path.write_text(json.dumps(content))
    config = write_config(tmp_path, data)
    with pytest.raises(ValueError, match='no segmentation, or an empty one'):
        train(config, tmp_path / 'work')

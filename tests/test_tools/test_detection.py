"""tools/train.py and tools/test.py on COCO data."""

import io
import json
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_train_and_test import launch

from mmscope.apis import ScopeInferencer

ROOT = Path(__file__).parents[2]
VAL = 'annotations/instances_val2017.json'
# the detector of the demo, which trains a step in a third of a second
TINY = """
_base_ = '{root}/configs/demo/mambascope_det_demo.py'
image_size, width = (96, 96), 16
heads = [
    dict(head, in_channels=width, fc_out_channels=32, num_classes={classes})
    for head in _base_.model.roi_head.bbox_head
]
extractor = dict(out_channels=width)
model = dict(
    data_preprocessor=dict(
        pad_size_divisor=96,
        batch_augments=[
            dict(type='BatchFixedSizePad', size=image_size, pad_mask=True)
        ]
    ),
    backbone=dict(
        arch=dict(embed_dims=32, num_layers=4, d_state=4),
        img_size=96,
        out_indices=(3,),
        exit_head=dict(num_classes={classes}),
    ),
    neck=dict(in_channels=32, out_channels=width),
    rpn_head=dict(in_channels=width, feat_channels=width),
    roi_head=dict(
        bbox_roi_extractor=extractor,
        bbox_head=heads,
        mask_roi_extractor=extractor,
        mask_head=dict(
            in_channels=width, conv_out_channels=width, num_classes={classes}
        ),
    ),
    test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=8)),
)
resize = dict(type='Resize', scale=(96, 96), keep_ratio=True)
train_pipeline = [
    {{{{_base_.load_image}}}},
    {{{{_base_.load_annotations}}}},
    resize,
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    {{{{_base_.load_image}}}},
    resize,
    *_base_.test_pipeline[2:],
]
metainfo = {metainfo}
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        data_root='{data}/', metainfo=metainfo, pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=2,
    dataset=dict(
        data_root='{data}/',
        metainfo=metainfo,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
ann_file = '{data}/annotations/instances_val2017.json'
val_evaluator = [
    dict(_base_.val_evaluator[0], ann_file=ann_file),
    *_base_.val_evaluator[1:],
]
test_evaluator = val_evaluator
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
"""


def write_config(folder: Path, data: Path, more: str = '') -> Path:
    """A tiny detector for the sample data, or for COCO's classes."""
    classes, metainfo = 7, '_base_.metainfo'
    if 'coco_mini' in str(data):
        classes, metainfo = 80, 'None'
    path = folder / 'tiny.py'
    path.write_text(
        TINY.format(root=ROOT, data=data, classes=classes, metainfo=metainfo)
        + more
    )
    return path


@pytest.fixture(scope='module')
def real_run(real_data: Path, train, tmp_path_factory) -> tuple[Path, Path]:
    """Config and checkpoint of a short training on real images."""
    folder = tmp_path_factory.mktemp('detector')
    config = write_config(folder, real_data / 'coco_mini')
    # some of the images suffice; COCO's metric takes all that it knows
    few(real_data / 'coco_mini' / VAL, folder / 'few.json')
    config.write_text(
        config.read_text()
        + f"test_dataloader['dataset']['ann_file'] = '{folder}/few.json'\n"
        f"val_evaluator[0]['ann_file'] = '{folder}/few.json'\n"
        f"val_dataloader['dataset']['ann_file'] = '{folder}/few.json'\n"
    )
    train(config, folder / 'work')
    return config, folder / 'work/iter_2.pth'


def few(source: Path, target: Path) -> None:
    """Keep four images, one of them without annotations."""
    full = json.loads(source.read_text())
    images = full['images'][:4]
    chosen = {image['id'] for image in images[1:]}
    part = dict(
        full,
        images=images,
        annotations=[
            a for a in full['annotations'] if a['image_id'] in chosen
        ],
    )
    target.write_text(json.dumps(part))


@pytest.mark.parametrize('eta', [0, 0.7, 1])
def test_results_are_cocos_own(
    real_run, run_tool, tmp_path, capfd, eta
) -> None:
    """Twelve numbers twice; pycocotools alone gets them from our json."""
    config, checkpoint = real_run
    out = tmp_path / 'out'
    run_tool(
        'test.py',
        *(config, checkpoint, '--work-dir', tmp_path / 'work'),
        *('--eta', eta, '--out', out),
    )
    printed = ''.join(capfd.readouterr())
    assert len(re.findall(r'Average (Precision|Recall)', printed)) == 24
    metrics, exits = (
        json.loads((out / f'{name}.json').read_text())
        for name in ('metrics', 'exits')
    )
    assert metrics['eta'] == eta
    assert metrics['exit/rate'] == np.mean([e['exited'] for e in exits])
    if eta != 0.7:
        assert metrics['exit/rate'] == 1 - eta
    truth = COCO(str(config.parent / 'few.json'))
    for kind in ('bbox', 'segm'):
        results = truth.loadRes(str(out / f'predictions.{kind}.json'))
        evaluation = COCOeval(truth, results, kind)
        with redirect_stdout(io.StringIO()):
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        names = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
        ours = [metrics[f'coco/{kind}_{name}'] for name in names]
        if kind == 'bbox':
            assert ours == pytest.approx(evaluation.stats[:6], abs=6e-4)
        # with boxes in the file, COCO takes sizes of masks from these
        assert ours[:3] == pytest.approx(evaluation.stats[:3], abs=6e-4)
    assert len({e['image'] for e in exits}) == 4


def test_pictures_are_named_after_images(real_run, run_tool, tmp_path) -> None:
    config, checkpoint = real_run
    one = json.loads((config.parent / 'few.json').read_text())
    one['images'] = one['images'][1:2]
    one['annotations'] = [
        a
        for a in one['annotations']
        if a['image_id'] == one['images'][0]['id']
    ]
    path = tmp_path / 'one.json'
    path.write_text(json.dumps(one))
    run_tool(
        'test.py',
        *(config, checkpoint, '--work-dir', tmp_path / 'work'),
        *('--show-dir', tmp_path / 'show', '--cfg-options'),
        f'test_dataloader.dataset.ann_file={path}',
        f'test_evaluator.0.ann_file={path}',
    )
    (picture,) = (tmp_path / 'show').rglob('*.jpg')
    assert picture.name == one['images'][0]['file_name']


def test_odd_annotations_pass_through(train, sample_root, tmp_path) -> None:
    """Crowds, grey images, tiny boxes, and images of crowds or nothing."""
    data = tmp_path / 'data'
    shutil.copytree(sample_root, data)
    path = data / 'annotations/instances_train2017.json'
    coco = json.loads(path.read_text())
    images = coco['images'][:4]
    grey = data / 'train2017' / images[0]['file_name']
    Image.open(grey).convert('L').save(grey)
    coco['images'] = images
    coco['annotations'] = [
        annotation(0, [10, 10, 30, 30], 1),
        annotation(1, [5, 5, 60, 40], 2, crowd=True, size=images[1]),
        annotation(1, [20, 20, 1, 1], 3),
        annotation(1, [40, 40, 1.5, 0.5], 4),
        annotation(2, [5, 5, 40, 40], 5, crowd=True, size=images[2]),
    ]
    for number, item in enumerate(coco['annotations'], start=1):
        item.update(id=number, image_id=images[item['image_id']]['id'])
    path.write_text(json.dumps(coco))
    config = write_config(
        tmp_path, data, "train_dataloader['dataset']['filter_cfg'] = None\n"
    )
    runner = train(config, tmp_path / 'work')
    assert len(runner.train_dataloader.dataset) == 4
    losses = runner.message_hub.log_scalars
    for name in ('loss', 'loss_exit', 's2.loss_mask', 'coarse_s0.loss_cls'):
        assert np.isfinite(losses[f'train/{name}'].current())


def test_training_goes_on_where_nothing_is_found(
    train, sample_root, tmp_path
) -> None:
    """mmdet then has no AP, by which the best checkpoint is chosen."""
    config = write_config(
        tmp_path,
        sample_root,
        "model['test_cfg']['rcnn']['score_thr'] = 2.0\n"
        "default_hooks['checkpoint']['save_best'] = 'coco/bbox_mAP'\n",
    )
    train(config, tmp_path / 'work')
    assert (tmp_path / 'work/iter_2.pth').is_file()
    assert not list((tmp_path / 'work').glob('best_*'))


def annotation(
    image: int,
    box: list[float],
    category: int,
    crowd: bool = False,
    size: dict | None = None,
) -> dict:
    left, top, width, height = box
    right, bottom = left + width, top + height
    outline = [left, top, right, top, right, bottom, left, bottom]
    segmentation: dict | list = [outline]
    if crowd:
        area = size['height'] * size['width']
        segmentation = dict(
            size=[size['height'], size['width']], counts=[0, area]
        )
    return dict(
        image_id=image,
        bbox=box,
        category_id=category,
        area=width * height,
        iscrowd=int(crowd),
        segmentation=segmentation,
    )


def cut_json(root: Path) -> Path:
    path = root / 'annotations/instances_train2017.json'
    path.write_text(path.read_text()[:-100])
    return path


def other_json(root: Path) -> Path:
    path = root / 'annotations/instances_train2017.json'
    path.write_text('{"images": []}')
    return path


def cut_image(root: Path) -> Path:
    path = min((root / 'train2017').iterdir())
    data = path.read_bytes()
    path.unlink()  # a hard link of the same picture in the other layout
    path.write_bytes(data[:400])
    return path


def no_evaluator(root: Path) -> Path:
    path = root / VAL
    copy = root / 'annotations/val.json'
    shutil.move(path, copy)
    return path


OTHER_FILE = "val_dataloader['dataset']['ann_file'] = 'annotations/val.json'\n"
OTHER_CLASSES = (
    "train_dataloader['dataset']['metainfo'] = dict(classes=('x',))"
)


@pytest.mark.parametrize(
    ('damage', 'more', 'error', 'message'),
    [
        (cut_json, '', ValueError, '{} is not valid json.*restore it'),
        (
            other_json,
            '',
            ValueError,
            r"{} is no COCO annotation file.*lacks \['cat",
        ),
        (cut_image, '', AssertionError, 'failed to load image: {}'),
        (
            no_evaluator,
            OTHER_FILE,
            FileNotFoundError,
            r"val_evaluator.0.ann_file='{}' does not exist.*--cfg-options",
        ),
        (
            lambda root: root,
            OTHER_CLASSES,
            FileNotFoundError,
            r'no samples in {}.*instances_train2017.json has no image.*'
            r'metainfo.classes',
        ),
    ],
)
def test_bad_data(
    run_tool, sample_root, tmp_path, damage, more, error, message
) -> None:
    data = tmp_path / 'data'
    shutil.copytree(sample_root, data)
    path = damage(data)
    # every picture is seen in the first iteration
    more += "\ntrain_dataloader['batch_size'] = 12"
    config = write_config(tmp_path, data, more)
    with pytest.raises(error, match=message.format(re.escape(str(path)))):
        run_tool('train.py', config, '--work-dir', tmp_path / 'work')


def test_out_needs_an_evaluator_that_writes(run_tool, sample_root, tmp_path):
    more = "test_evaluator = [dict(type='VOCMetric')]\n"
    config = write_config(tmp_path, sample_root, more)
    with pytest.raises(ValueError, match='IoUMetric, Coco.*got VOCMetric'):
        run_tool('test.py', config, 'any.pth', '--out', tmp_path / 'out')


@pytest.mark.slow
def test_two_processes_on_a_cpu(
    real_run, run_tool, sample_root, tmp_path
) -> None:
    """Nothing is unused in training, and results meet in evaluation."""
    config = write_config(tmp_path, sample_root)
    output = launch(
        'dist_train.sh', config, 2, '--work-dir', tmp_path / 'work'
    )
    assert 'GPU number: 2' in output
    config, checkpoint = real_run
    # mmdet pads images to their batch mates, which are others then
    alone = ['--cfg-options', 'test_dataloader.batch_size=1']
    options = [*alone, '--eta', 0.6, '--work-dir', tmp_path / 'test', '--out']
    run_tool('test.py', config, checkpoint, *options, tmp_path / 'one')
    launch('dist_test.sh', config, checkpoint, 2, *options, tmp_path / 'two')
    for name in ('metrics.json', 'exits.json', 'predictions.segm.json'):
        one, two = (
            json.loads((tmp_path / run / name).read_text())
            for run in ('one', 'two')
        )
        if name == 'metrics.json':
            assert one == pytest.approx(two, abs=1e-3)
        else:
            assert len(one) == len(two) > 0


@pytest.mark.parametrize('batch_size', [1, 4])
def test_sweep_replays_what_testing_measures(
    run_tool, real_run, tmp_path, batch_size
) -> None:
    config, checkpoint = real_run
    batches = ('--cfg-options', f'test_dataloader.batch_size={batch_size}')
    test = ('test.py', config, checkpoint, '--work-dir', tmp_path / 'work')
    test += batches
    out = tmp_path / 'out'
    run_tool(*test, '--eta', 1, '--out', out)
    exits = json.loads((out / 'exits.json').read_text())
    confidence = sorted(one['confidence'] for one in exits)
    eta = (confidence[1] + confidence[2]) / 2
    run_tool(*test, '--eta', eta, '--out', out)
    real = json.loads((out / 'metrics.json').read_text())
    run_tool(
        *('eta_sweep.py', config, checkpoint, '--eta', 0, eta, 1),
        *('--out-dir', tmp_path / 'sweep', '--draws', 2),
        *('--num-pictures', 2, '--policies', 'max', *batches),
    )
    found = json.loads((tmp_path / 'sweep' / 'sweep.json').read_text())
    replayed = found['sweep'][1]
    assert replayed['exit_rate'] == real['exit/rate'] == 0.5
    for name in ('bbox_mAP', 'segm_mAP', 'segm_mAP_50'):
        assert replayed[name] == pytest.approx(real[f'coco/{name}'], abs=1e-3)
    assert Image.open(tmp_path / 'sweep' / 'pictures.png').width > 800


def test_pixels_judge_no_detector(run_tool, real_run, tmp_path) -> None:
    with pytest.raises(TypeError, match='does not decode them'):
        run_tool(
            *('eta_sweep.py', *real_run, '--policies', 'pixel'),
            *('--out-dir', tmp_path),
        )


def test_mmdets_own_inferencer_agrees(real_run, real_data) -> None:
    config, checkpoint = map(str, real_run)
    images = sorted((real_data / 'coco_mini/val2017').glob('*.jpg'))[:2]
    theirs = DetInferencer(config, checkpoint, device='cpu')(
        [str(path) for path in images],
        return_datasamples=True,
        out_dir='',
    )['predictions']
    ours = ScopeInferencer(config, checkpoint, batch_size=1)(images)
    for one, other in zip(ours, theirs, strict=True):
        assert one.exited == other.exited
        assert torch.equal(
            one.pred_instances.bboxes, other.pred_instances.bboxes
        )

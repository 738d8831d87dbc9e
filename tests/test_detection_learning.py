"""A small MambaScope detector learns eight real images of COCO."""

import json
import shutil
from pathlib import Path

import pytest
from mmengine.config import Config

from mmscope.engine.launch import build_runner

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CONFIG = """
_base_ = '{root}/configs/cascade_mask_rcnn/mambascope_t_coco.py'
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(256, 256), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_pipeline = [pipeline[0], pipeline[2], pipeline[1], pipeline[3]]
width, channels = 128, 64
heads = [
    dict(
        head,
        type='Shared2FCBBoxHead',
        in_channels=channels,
        fc_out_channels=512,
    )
    for head in _base_.model.roi_head.bbox_head
]
stages = [
    dict(stage, sampler=dict(stage.sampler, num=32))
    for stage in _base_.model.train_cfg.rcnn
]
roi_layer = dict(sampling_ratio=2)
model = dict(
    data_preprocessor=dict(
        pad_size_divisor=32,
        batch_augments=[
            dict(type='BatchFixedSizePad', size=(256, 256), pad_mask=True)
        ]
    ),
    backbone=dict(
        drop_path_rate=0.0,
        arch=dict(embed_dims=width, num_layers=6),
        img_size=256,
        out_indices=(5,),
        alpha=1.0,
        eta=1.0,
    ),
    neck=dict(in_channels=width, out_channels=channels),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        num_convs=1,
        anchor_generator=dict(scales=[4]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=roi_layer, out_channels=channels),
        bbox_head=heads,
        mask_roi_extractor=dict(roi_layer=roi_layer, out_channels=channels),
        mask_head=dict(
            num_convs=2, in_channels=channels, conv_out_channels=channels
        ),
    ),
    coarse_decode_weight=0.0,
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=300, max_per_img=150), rcnn=stages
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=150)),
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root='{data}/',
        ann_file='instances.json',
        data_prefix=dict(img='images/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root='{data}/',
        ann_file='instances.json',
        data_prefix=dict(img='images/'),
        pipeline=pipeline,
    ),
)
val_evaluator = [
    dict(_base_.val_evaluator[0], ann_file='{data}/instances.json')
]
optim_wrapper = dict(
    _delete_=True,
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=20),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=20, end={iters}),
]
train_cfg = dict(max_iters={iters}, val_interval=100)
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval={iters}, save_best=None),
    alpha_schedule=dict(full_until=0.0),
)
test_dataloader = None
test_evaluator = None
test_cfg = None
"""


def write_data(source: Path, target: Path, count: int) -> None:
    """Copy the first images that have objects, with their annotations."""
    full = json.loads(
        (source / 'annotations/instances_train2017.json').read_text()
    )
    with_objects = {a['image_id'] for a in full['annotations']}
    images = [i for i in full['images'] if i['id'] in with_objects][:count]
    chosen = {image['id'] for image in images}
    (target / 'images').mkdir(parents=True)
    for image in images:
        shutil.copy(
            source / 'train2017' / image['file_name'], target / 'images'
        )
    part = dict(
        images=images,
        categories=full['categories'],
        annotations=[
            a for a in full['annotations'] if a['image_id'] in chosen
        ],
    )
    (target / 'instances.json').write_text(json.dumps(part))


def test_it_overfits_real_images(real_data, tmp_path) -> None:
    write_data(real_data / 'coco_mini', tmp_path / 'data', 8)
    path = tmp_path / 'overfit.py'
    path.write_text(
        CONFIG.format(root=ROOT, data=tmp_path / 'data', iters=200)
    )
    cfg = Config.fromfile(path)
    cfg.work_dir = str(tmp_path / 'work')
    runner = build_runner(cfg, 'none', ('train', 'val'))
    runner.train()
    metrics = runner.message_hub.log_scalars
    box, mask = (
        metrics[f'val/coco/{kind}_mAP_50'].current()
        for kind in ('bbox', 'segm')
    )
    print(f'box AP50 {box}, mask AP50 {mask}')
    assert mask > 0.3
    assert box > 0.3

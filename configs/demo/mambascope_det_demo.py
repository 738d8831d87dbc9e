# A small MambaScope Cascade Mask R-CNN on the sample data, in COCO's layout:
#   python tools/make_sample_data.py data/sample
#   python tools/train.py configs/demo/mambascope_det_demo.py
_base_ = [
    '../cascade_mask_rcnn/_base_/cascade_mask_rcnn.py',
    '../cascade_mask_rcnn/_base_/runtime.py',
]

data_root = 'data/sample/'
metainfo = dict(
    classes=('circle', 'triangle', 'square', 'star', 'ring', 'cross', 'bar'),
    palette=[
        (242, 36, 36),
        (70, 242, 36),
        (36, 111, 242),
        (242, 207, 36),
        (242, 36, 180),
        (36, 242, 221),
        (132, 36, 242),
    ],
)
image_size = (224, 224)
embed_dims = 96
channels = 64
max_iters = 1200

heads = [
    dict(
        head,
        type='Shared2FCBBoxHead',
        in_channels=channels,
        fc_out_channels=256,
        num_classes=7,
    )
    for head in _base_.model.roi_head.bbox_head
]
stages = [
    dict(stage, sampler=dict(stage.sampler, num=32))
    for stage in _base_.model.train_cfg.rcnn
]
model = dict(
    type='mmscope.MambaScopeCascadeRCNN',
    data_preprocessor=dict(
        pad_size_divisor=32,
        batch_augments=[
            dict(type='BatchFixedSizePad', size=image_size, pad_mask=True)
        ],
    ),
    backbone=dict(
        type='mmscope.MambaScopeBackbone',
        arch=dict(embed_dims=embed_dims, num_layers=6),
        img_size=224,
        out_indices=(5,),
        alpha=0.8,
        eta=0.8,
        exit_head=dict(type='mmscope.MultiLabelExitHead', num_classes=7),
        exit_resolution='coarse',
    ),
    neck=dict(in_channels=embed_dims, out_channels=channels),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        num_convs=1,
        anchor_generator=dict(scales=[4]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=2), out_channels=channels
        ),
        bbox_head=heads,
        mask_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=2), out_channels=channels
        ),
        mask_head=dict(
            num_convs=2,
            in_channels=channels,
            conv_out_channels=channels,
            num_classes=7,
        ),
    ),
    coarse_decode_weight=0.4,
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=300, max_per_img=100), rcnn=stages
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=300, max_per_img=100), rcnn=dict(max_per_img=30)
    ),
)
load_image = dict(type='LoadImageFromFile')
load_annotations = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
resize = dict(type='Resize', scale=image_size, keep_ratio=True)
train_pipeline = [
    load_image,
    load_annotations,
    resize,
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    load_image,
    resize,
    load_annotations,
    dict(
        type='PackDetInputs',
        meta_keys=(
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
        ),
    ),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(
        type='CocoMetric',
        ann_file=data_root + 'annotations/instances_val2017.json',
        metric=['bbox', 'segm'],
        proposal_nums=(1, 10, 100),
    ),
    dict(type='mmscope.ExitMetric'),
]
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters),
]
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=max_iters, val_interval=600
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=600, save_best=None),
    alpha_schedule=dict(type='mmscope.AlphaScheduleHook', full_until=0.5),
    exit_statistics=dict(type='mmscope.ExitStatisticsHook'),
)

# A small MambaScope on the sample data, trained on a CPU in minutes by
# `make demo`. Each image is refined where the coarse answer is uncertain, as
# much as it needs; the method of the paper is evidence/demo_paper.py.
_base_ = [
    '../upernet/_base_/upernet.py',
    '../upernet/_base_/runtime.py',
]

data_root = 'data/sample'
classes = (
    'background',
    'circle',
    'triangle',
    'square',
    'star',
    'ring',
    'cross',
    'bar',
)
palette = [
    [128, 128, 128],
    [242, 36, 36],
    [70, 242, 36],
    [36, 111, 242],
    [242, 207, 36],
    [242, 36, 180],
    [36, 242, 221],
    [132, 36, 242],
]
metainfo = dict(classes=classes, palette=palette)
crop_size = (128, 128)
embed_dims = 64
max_iters = 1800
num_train = 800  # the other training pictures calibrate eta

model = dict(
    type='mmscope.MambaScopeSegmentor',
    data_preprocessor=dict(
        type='mmscope.ScopeSegDataPreprocessor', size=crop_size
    ),
    backbone=dict(
        type='mmscope.MambaScopeBackbone',
        arch=dict(embed_dims=embed_dims, num_layers=6),
        img_size=160,
        out_indices=(1, 2, 3, 5),
        alpha=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0),
        cell_score=dict(type='mmscope.CoarseUncertainty'),
        unselected='drop',
        eta=0.95,
        tau=0.07,
        exit_head=dict(type='mmscope.MultiLabelExitHead', num_classes=8),
        exit_policy=dict(type='mmscope.PixelConfidence'),
        exit_resolution='coarse',
    ),
    neck=dict(embed_dim=embed_dims),
    decode_head=dict(
        in_channels=[embed_dims] * 4, channels=embed_dims, num_classes=8
    ),
    auxiliary_head=None,
    coarse_decode_weight=0.4,
    exit_weight=0.2,
)
load_image = dict(type='LoadImageFromFile')
load_mask = dict(type='mmscope.LoadMask')
check_labels = dict(type='mmscope.CheckLabels', num_classes=8)
train_pipeline = [
    load_image,
    load_mask,
    check_labels,
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    load_image,
    load_mask,
    check_labels,
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training'
        ),
        reduce_zero_label=True,
        indices=num_train,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(
            img_path='images/validation',
            seg_map_path='annotations/validation',
        ),
        reduce_zero_label=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
calibration_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training'
        ),
        reduce_zero_label=True,
        indices=-160,
        pipeline=test_pipeline,
    ),
)
val_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU']),
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
    type='IterBasedTrainLoop', max_iters=max_iters, val_interval=900
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=900, save_best=None),
    alpha_schedule=dict(type='mmscope.AlphaScheduleHook', full_until=0.5),
    exit_statistics=dict(type='mmscope.ExitStatisticsHook'),
)

# Street scenes of labelmefacade: 8 classes, short side 192, trained from
# scratch by a recipe that all models of docs/evidence.md share
_base_ = ['../../upernet/_base_/runtime.py']

data_root = 'data/labelmefacade'
classes = (
    'building',
    'car',
    'door',
    'pavement',
    'road',
    'sky',
    'vegetation',
    'window',
)
palette = [
    [128, 0, 0],
    [128, 0, 128],
    [128, 128, 0],
    [128, 128, 128],
    [128, 64, 0],
    [0, 128, 128],
    [0, 128, 0],
    [0, 0, 128],
]
metainfo = dict(classes=classes, palette=palette)
crop_size = (192, 192)
max_iters = 1500

load_image = dict(type='LoadImageFromFile')
load_mask = dict(type='mmscope.LoadMask')
check_labels = dict(type='mmscope.CheckLabels', num_classes=8)
train_pipeline = [
    load_image,
    load_mask,
    check_labels,
    dict(
        type='RandomResize',
        scale=(256, 192),
        ratio_range=(0.75, 1.5),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
num_train = 600  # the others calibrate
test_pipeline = [
    load_image,
    load_mask,
    check_labels,
    dict(type='PackSegInputs'),
]
training = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=metainfo,
    data_prefix=dict(
        img_path='images/training', seg_map_path='annotations/training'
    ),
    reduce_zero_label=True,
)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(training, indices=num_train, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        training,
        data_prefix=dict(
            img_path='images/validation',
            seg_map_path='annotations/validation',
        ),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
calibration_dataloader = dict(
    val_dataloader,
    dataset=dict(training, indices=-110, pipeline=test_pipeline),
)
val_evaluator = [dict(type='IoUMetric', iou_metrics=['mIoU'])]
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
    type='IterBasedTrainLoop', max_iters=max_iters, val_interval=750
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(interval=750, save_best=None))

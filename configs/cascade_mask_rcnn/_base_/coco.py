dataset_type = 'CocoDataset'
data_root = 'data/coco/'
image_size = (1024, 1024)

load_image = dict(type='LoadImageFromFile')
load_annotations = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
# large-scale jitter; the data preprocessor pads
train_pipeline = [
    load_image,
    load_annotations,
    dict(
        type='RandomResize',
        scale=image_size,
        ratio_range=(0.1, 2.0),
        keep_ratio=True,
    ),
    dict(
        type='RandomCrop',
        crop_type='absolute',
        crop_size=image_size,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
pack_test = dict(
    type='PackDetInputs',
    meta_keys=(
        'img_id',
        'img_path',
        'ori_shape',
        'img_shape',
        'scale_factor',
    ),
)
# the longer side to 1024, as Vim tests
test_pipeline = [
    load_image,
    dict(type='Resize', scale=image_size, keep_ratio=True),
    load_annotations,
    pack_test,
]
# The shorter side to 1024, as the paper says, and the longer one to at most
# 1333 * 1024 / 800; needs data_preprocessor.pad_size_divisor=32
short_side_pipeline = [
    load_image,
    dict(type='Resize', scale=(1706, 1024), keep_ratio=True),
    load_annotations,
    pack_test,
]
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
# the numbers of detections that COCO itself evaluates
val_evaluator = [
    dict(
        type='CocoMetric',
        ann_file=data_root + 'annotations/instances_val2017.json',
        metric=['bbox', 'segm'],
        proposal_nums=(1, 10, 100),
    )
]
test_evaluator = val_evaluator

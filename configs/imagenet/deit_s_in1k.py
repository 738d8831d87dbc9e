# DeiT-S under the same recipe; attention through torch's fused kernels
_base_ = [
    './_base_/imagenet.py',
    './_base_/schedule_300e.py',
    './_base_/runtime.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch='deit-small',
        img_size=224,
        patch_size=16,
    ),
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=1000,
        in_channels=384,
        loss=dict(
            type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'
        ),
    ),
    train_cfg=_base_.batch_augments,
)

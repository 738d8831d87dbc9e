# Table 2, ResNet-50: 41.2 mIoU, 67M parameters
_base_ = [
    './_base_/upernet.py',
    './_base_/ade20k.py',
    './_base_/schedule_160k.py',
    './_base_/runtime.py',
]

in_channels = [256, 512, 1024, 2048]

# ImageNet weights: --cfg-options model.backbone.init_cfg.type=Pretrained
# model.backbone.init_cfg.checkpoint=open-mmlab://resnet50_v1c
model = dict(
    data_preprocessor=dict(test_cfg=_base_.slide_padding),
    backbone=dict(
        type='ResNetV1c',
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=True),
        style='pytorch',
    ),
    # its maps are a pyramid already
    neck=None,
    decode_head=dict(in_channels=in_channels, channels=512),
    auxiliary_head=dict(in_channels=in_channels[2]),
    test_cfg=_base_.slide,
)

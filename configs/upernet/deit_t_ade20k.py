# Table 2, DeiT-Ti: 39.2 mIoU, 11M parameters
_base_ = [
    './_base_/upernet.py',
    './_base_/ade20k.py',
    './_base_/schedule_160k.py',
    './_base_/runtime.py',
]

# ImageNet weights: --cfg-options model.backbone.init_cfg.type=Pretrained
# model.backbone.init_cfg.checkpoint=deit_t_mmseg.pth
model = dict(
    data_preprocessor=dict(test_cfg=_base_.slide_padding),
    backbone=dict(
        type='mmscope.FusedVisionTransformer',
        img_size=(512, 512),
        patch_size=16,
        embed_dims=192,
        num_layers=12,
        num_heads=3,
        drop_path_rate=0.1,
        mlp_ratio=4,
        out_indices=(2, 5, 8, 11),
        qkv_bias=True,
        norm_cfg=dict(type='LN', eps=1e-6),
        interpolate_mode='bicubic',
        cuda_graphs=True,
    ),
    test_cfg=_base_.slide,
)

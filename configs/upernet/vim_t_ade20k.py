# Table 2, Vim-Ti: 41.0 mIoU, 13M parameters
_base_ = [
    './_base_/upernet.py',
    './_base_/ade20k.py',
    './_base_/schedule_160k.py',
    './_base_/runtime.py',
]

# ImageNet weights: --cfg-options model.backbone.init_cfg.type=Pretrained
# model.backbone.init_cfg.checkpoint=vim_t_midclstok.pth
model = dict(
    data_preprocessor=dict(test_cfg=_base_.slide_padding),
    backbone=dict(
        type='mmscope.VisionMambaBackbone',
        arch=dict(embed_dims=192, num_layers=24),
        drop_path_rate=0.1,
        img_size=512,
        cuda_graphs=True,
    ),
    test_cfg=_base_.slide,
)

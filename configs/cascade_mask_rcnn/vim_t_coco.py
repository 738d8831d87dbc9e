# Table 3, Vim-Ti: 45.7 box AP, 39.2 mask AP, 30M parameters
_base_ = [
    './_base_/cascade_mask_rcnn.py',
    './_base_/coco.py',
    './_base_/schedule_380k.py',
    './_base_/runtime.py',
]

# ImageNet weights: --cfg-options model.backbone.init_cfg.type=Pretrained
# model.backbone.init_cfg.checkpoint=vim_t_midclstok.pth
model = dict(
    backbone=dict(
        type='mmscope.VisionMambaBackbone',
        arch=dict(embed_dims=192, num_layers=24),
        drop_path_rate=0.1,
        img_size=1024,
        out_indices=(23,),
        cuda_graphs=True,
    )
)

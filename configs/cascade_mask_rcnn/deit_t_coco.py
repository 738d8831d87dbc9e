# Table 3, DeiT-Ti: 44.4 box AP, 38.1 mask AP
#
# Attention over the whole image in every layer, which mmpretrain leaves to
# torch's fused kernel: no matrix of tokens times tokens is written. mmdet has
# no plain ViT, and mmpretrain's needs torchvision.
_base_ = [
    './_base_/cascade_mask_rcnn.py',
    './_base_/coco.py',
    './_base_/schedule_380k.py',
    './_base_/runtime.py',
]

# ImageNet weights: --cfg-options model.backbone.init_cfg.type=Pretrained
# model.backbone.init_cfg.checkpoint=deit_t_mmpretrain.pth
# model.backbone.init_cfg.prefix=backbone.
model = dict(
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch='deit-tiny',
        drop_path_rate=0.1,
        img_size=1024,
        patch_size=16,
        out_type='featmap',
    )
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.7))

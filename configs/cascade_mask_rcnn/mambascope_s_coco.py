# MambaScope-S, which the paper does not report on COCO; heads of 256 channels
_base_ = './mambascope_t_coco.py'

embed_dims = 384
channels = 256
fc_channels = 1024

bbox_heads = [
    dict(
        head,
        in_channels=channels,
        conv_out_channels=channels,
        fc_out_channels=fc_channels,
    )
    for head in _base_.model.roi_head.bbox_head
]
model = dict(
    backbone=dict(arch=dict(embed_dims=embed_dims)),
    neck=dict(in_channels=embed_dims, out_channels=channels),
    rpn_head=dict(in_channels=channels, feat_channels=channels),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=bbox_heads,
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=dict(in_channels=channels, conv_out_channels=channels),
    ),
)

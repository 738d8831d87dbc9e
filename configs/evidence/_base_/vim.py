# A small plain Vim behind UperNet, and the recipe of docs/evidence.md
_base_ = ['../../upernet/_base_/upernet.py']

embed_dims = 64
num_classes = 8
model = dict(
    data_preprocessor=dict(size=(192, 192)),
    backbone=dict(
        type='mmscope.VisionMambaBackbone',
        arch=dict(embed_dims=embed_dims, num_layers=6),
        img_size=(192, 192),
        out_indices=(1, 2, 3, 5),
    ),
    neck=dict(embed_dim=embed_dims),
    decode_head=dict(
        in_channels=[embed_dims] * 4,
        channels=embed_dims,
        num_classes=num_classes,
    ),
    auxiliary_head=None,
)

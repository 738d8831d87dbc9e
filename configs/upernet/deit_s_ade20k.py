# Table 2, DeiT-S: 44.0 mIoU, 43M parameters
_base_ = './deit_t_ade20k.py'

embed_dims = 384

model = dict(
    backbone=dict(embed_dims=embed_dims, num_heads=6),
    neck=dict(embed_dim=embed_dims),
    decode_head=dict(in_channels=[embed_dims] * 4, channels=embed_dims),
    auxiliary_head=dict(in_channels=embed_dims),
)

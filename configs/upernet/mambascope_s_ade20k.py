# Table 2, MambaScope-S: 45.5 mIoU, 48M parameters
_base_ = './mambascope_t_ade20k.py'

embed_dims = 384

model = dict(
    backbone=dict(arch=dict(embed_dims=embed_dims)),
    neck=dict(embed_dim=embed_dims),
    decode_head=dict(in_channels=[embed_dims] * 4, channels=embed_dims),
    auxiliary_head=dict(in_channels=embed_dims),
)

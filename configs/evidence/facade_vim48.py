# Plain Vim of three quarters of the width on labelmefacade: two thirds of
# the cost; see docs/evidence.md
_base_ = ['facade_vim.py']

embed_dims = 48
model = dict(
    backbone=dict(arch=dict(embed_dims=embed_dims)),
    neck=dict(embed_dim=embed_dims),
    decode_head=dict(in_channels=[embed_dims] * 4),
)

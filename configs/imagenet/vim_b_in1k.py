# Table 1, Vim-B: 81.9 top-1, 98M parameters, 18.9 GFLOPs
_base_ = './vim_s_in1k.py'

embed_dims = 768
model = dict(
    backbone=dict(arch=dict(embed_dims=embed_dims)),
    head=dict(in_channels=embed_dims),
)

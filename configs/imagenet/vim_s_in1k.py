# Table 1, Vim-S: 80.3 top-1, 26M parameters, 5.1 GFLOPs
_base_ = './vim_t_in1k.py'

embed_dims = 384
model = dict(
    backbone=dict(arch=dict(embed_dims=embed_dims), drop_path_rate=0.05),
    head=dict(in_channels=embed_dims),
)

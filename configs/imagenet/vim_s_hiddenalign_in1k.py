# Table 1, "ViM-S + HA" (HiddenAlign): 78.8 top-1, 3.6 GFLOPs
_base_ = './vim_t_hiddenalign_in1k.py'

embed_dims = 384
load_from = 'vim_s_in1k.pth'
model = dict(
    backbone=dict(
        arch=dict(embed_dims=embed_dims),
        token_reduction=dict(blocks=(4, 9, 14)),
    ),
    head=dict(in_channels=embed_dims),
)

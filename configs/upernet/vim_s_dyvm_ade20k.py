# Table 2, Vim-S+DyVM: 42.0 mIoU
_base_ = './vim_s_ade20k.py'

model = dict(
    type='mmscope.ReducedSegmentor',
    backbone=dict(
        cuda_graphs=False,
        token_reduction=dict(
            type='mmscope.DynamicTokens',
            keep_ratio=0.8,
            blocks=(6, 12, 18),
            direction_ratio=0.8,
            token_weight=20.0,
            direction_weight=20.0,
        ),
    ),
)

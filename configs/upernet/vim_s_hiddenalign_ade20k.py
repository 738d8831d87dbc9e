# Vim-S with token pruning as in HiddenAlign, which reports no segmentation
_base_ = './vim_s_ade20k.py'

model = dict(
    backbone=dict(
        cuda_graphs=False,
        token_reduction=dict(
            type='mmscope.HiddenAlignPruning', ratio=0.8, blocks=(4, 9, 14)
        ),
    )
)

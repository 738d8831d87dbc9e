# Vim-S with token merging as in R-MeeTo, which reports no segmentation
_base_ = './vim_s_ade20k.py'

model = dict(
    backbone=dict(
        cuda_graphs=False,
        token_reduction=dict(type='mmscope.TokenMerging', num_merged=11),
    )
)

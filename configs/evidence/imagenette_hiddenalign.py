# HiddenAlign from a plain Vim's weights: see docs/rivals.md
_base_ = ['_base_/imagenette_again.py', '_base_/vim_classifier.py']

model = dict(
    backbone=dict(
        token_reduction=dict(
            type='mmscope.HiddenAlignPruning', ratio=0.8, blocks=(1, 2, 3)
        )
    )
)

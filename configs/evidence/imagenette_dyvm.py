# DyVM from a plain Vim's weights: see docs/rivals.md
_base_ = ['_base_/imagenette_again.py', '_base_/vim_classifier.py']

model = dict(
    type='mmscope.DistilledClassifier',
    backbone=dict(
        token_reduction=dict(
            type='mmscope.DynamicTokens',
            keep_ratio=0.8,
            blocks=(1, 3, 4),
            direction_ratio=0.8,
        )
    ),
    token_weight=0.5,
    teacher=_base_.model,
    teacher_checkpoint=_base_.load_from,
)

# R-MeeTo from a plain Vim's weights: see docs/rivals.md
_base_ = ['_base_/imagenette_again.py', '_base_/vim_classifier.py']

model = dict(
    type='mmscope.DistilledClassifier',
    backbone=dict(
        token_reduction=dict(
            type='mmscope.TokenMerging', num_merged=20, blocks=(1, 2, 3, 4)
        )
    ),
    teacher=_base_.model,
    teacher_checkpoint=_base_.load_from,
)

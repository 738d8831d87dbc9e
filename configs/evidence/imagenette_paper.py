# MambaScope as in the paper on Imagenette: see docs/classification.md
_base_ = ['_base_/imagenette.py']

model = dict(
    type='mmscope.MambaScopeClassifier',
    backbone=dict(
        type='mmscope.MambaScopeBackbone',
        arch=dict(embed_dims=64, num_layers=6),
        img_size=112,
        patch_size=8,
        out_indices=(5,),
        out_type='cls_token',
        alpha=0.8,
        eta=0.7,
        exit_head=dict(type='mmscope.SingleLabelExitHead', num_classes=10),
    ),
)
val_evaluator = [*_base_.val_evaluator, dict(type='mmscope.ExitMetric')]
test_evaluator = val_evaluator
default_hooks = dict(
    alpha_schedule=dict(type='mmscope.AlphaScheduleHook', full_until=2 / 3),
    exit_statistics=dict(type='mmscope.ExitStatisticsHook'),
)

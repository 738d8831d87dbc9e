# MambaScope from a plain Vim's weights, beside its rivals: docs/rivals.md
_base_ = ['_base_/imagenette_again.py', '_base_/mambascope_classifier.py']

val_evaluator = [*_base_.val_evaluator, dict(type='mmscope.ExitMetric')]
test_evaluator = val_evaluator
default_hooks = dict(
    alpha_schedule=dict(type='mmscope.AlphaScheduleHook', full_until=2 / 3),
    exit_statistics=dict(type='mmscope.ExitStatisticsHook'),
)

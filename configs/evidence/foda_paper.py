# MambaScope as in the paper on debris of runways: see docs/evidence.md
_base_ = ['_base_/cascade_mambascope.py', '_base_/foda.py']

val_evaluator = [*_base_.val_evaluator, dict(type='mmscope.ExitMetric')]
test_evaluator = val_evaluator
default_hooks = dict(
    alpha_schedule=dict(type='mmscope.AlphaScheduleHook', full_until=0.5),
    exit_statistics=dict(type='mmscope.ExitStatisticsHook'),
)

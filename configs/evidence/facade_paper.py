# MambaScope as in the paper on labelmefacade: see docs/evidence.md
_base_ = ['_base_/mambascope.py', '_base_/labelmefacade.py']

val_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU']),
    dict(type='mmscope.ExitMetric'),
]
test_evaluator = val_evaluator
default_hooks = dict(
    alpha_schedule=dict(type='mmscope.AlphaScheduleHook', full_until=0.5),
    exit_statistics=dict(type='mmscope.ExitStatisticsHook'),
)

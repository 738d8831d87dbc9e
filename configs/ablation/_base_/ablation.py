# what every row of every table starts from; tools/ablate.py --epochs scales
# what counts epochs
_base_ = [
    './mambascope_s.py',
    './mini_imagenet.py',
    '../../imagenet/_base_/schedule_300e.py',
    '../../imagenet/_base_/runtime.py',
]
default_hooks = dict(
    alpha_schedule=dict(type='mmscope.AlphaScheduleHook', full_until=2 / 3),
    exit_statistics=dict(type='mmscope.ExitStatisticsHook'),
)
model = dict(train_cfg=_base_.batch_augments)

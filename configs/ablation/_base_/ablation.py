# what every row of every table starts from
_base_ = [
    './mambascope_s.py',
    './mini_imagenet.py',
    './schedule_300e.py',
    './runtime.py',
]
default_hooks = dict(
    alpha_schedule=dict(type='mmscope.AlphaScheduleHook', full_until=2 / 3),
    # Vim's decay of 0.99996
    ema=dict(type='EMAHook', momentum=4e-5),
)

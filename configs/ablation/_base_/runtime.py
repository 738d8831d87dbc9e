_base_ = '../../_base_/default_runtime.py'

default_scope = 'mmpretrain'
log_processor = dict(by_epoch=True)
visualizer = dict(
    type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=10, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='mmscope.ClassVisualizationHook'),
    exit_statistics=dict(type='mmscope.ExitStatisticsHook'),
)

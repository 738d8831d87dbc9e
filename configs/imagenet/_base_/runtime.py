_base_ = '../../_base_/default_runtime.py'

default_scope = 'mmpretrain'
log_processor = dict(by_epoch=True)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(
    type='UniversalVisualizer', vis_backends=vis_backends, name='visualizer'
)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='mmscope.SafeCheckpointHook',
        interval=5,
        max_keep_ckpts=2,
        save_best='accuracy/top1',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # decay 0.99996: the averaged weights are evaluated, and are state_dict
    # in checkpoints
    ema=dict(type='EMAHook', momentum=4e-5, priority='ABOVE_NORMAL'),
    visualization=dict(type='mmscope.ClassVisualizationHook'),
)

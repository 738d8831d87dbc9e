env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
# BatchNorm shares its statistics between GPUs
sync_bn = 'torch'
randomness = dict(seed=0)
default_hooks = dict(
    random_state=dict(type='mmscope.RandomStateHook'),
    plain_checkpoint=dict(type='mmscope.PlainCheckpointHook'),
    finite_loss=dict(type='mmscope.FiniteLossHook'),
    stop=dict(type='mmscope.StopHook'),
)
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False

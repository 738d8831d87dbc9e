# Table 2, MambaScope-Ti: 41.3 mIoU, 13M parameters
#
# Beyond the paper, so that early exit pays through the whole network: exited
# images are decoded at stride 32, and the decode head is trained on such maps,
# too. mambascope_t_ade20k_paper.py has the paper's method alone.
_base_ = [
    './_base_/upernet.py',
    './_base_/ade20k.py',
    './_base_/schedule_160k.py',
    './_base_/runtime.py',
]

# ImageNet weights: --cfg-options model.backbone.init_cfg.type=Pretrained
# model.backbone.init_cfg.checkpoint=vim_t_midclstok.pth
model = dict(
    type='mmscope.MambaScopeSegmentor',
    data_preprocessor=dict(type='mmscope.ScopeSegDataPreprocessor'),
    backbone=dict(
        type='mmscope.MambaScopeBackbone',
        arch=dict(embed_dims=192, num_layers=24),
        drop_path_rate=0.1,
        img_size=512,
        alpha=0.8,
        eta=0.7,
        exit_head=dict(type='mmscope.MultiLabelExitHead', num_classes=150),
        exit_resolution='coarse',
        cuda_graphs=True,
    ),
    coarse_decode_weight=0.4,
)
val_evaluator = [*_base_.val_evaluator, dict(type='mmscope.ExitMetric')]
test_evaluator = val_evaluator
default_hooks = dict(
    alpha_schedule=dict(type='mmscope.AlphaScheduleHook', full_until=2 / 3),
    exit_statistics=dict(type='mmscope.ExitStatisticsHook'),
)

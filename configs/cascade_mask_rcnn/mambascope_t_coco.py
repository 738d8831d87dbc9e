# Table 3, MambaScope-Ti: 45.8 box AP, 39.4 mask AP, 30M parameters
#
# Beyond the paper, so that early exit pays through the whole network: exited
# images are detected at half size, and the heads are trained on such maps,
# too. mambascope_t_coco_paper.py has the paper's method alone.
_base_ = [
    './_base_/cascade_mask_rcnn.py',
    './_base_/coco.py',
    './_base_/schedule_380k.py',
    './_base_/runtime.py',
]

# ImageNet weights: --cfg-options model.backbone.init_cfg.type=Pretrained
# model.backbone.init_cfg.checkpoint=vim_t_midclstok.pth
model = dict(
    type='mmscope.MambaScopeCascadeRCNN',
    backbone=dict(
        type='mmscope.MambaScopeBackbone',
        arch=dict(embed_dims=192, num_layers=24),
        drop_path_rate=0.1,
        img_size=1024,
        out_indices=(23,),
        alpha=0.8,
        eta=0.7,
        exit_head=dict(type='mmscope.MultiLabelExitHead', num_classes=80),
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

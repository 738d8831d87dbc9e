# Table 1, MambaScope-T: 76.4 top-1, 8M parameters, 1.4 GFLOPs
_base_ = [
    './_base_/imagenet.py',
    './_base_/schedule_300e.py',
    './_base_/runtime.py',
]

# Vim's weights: --cfg-options model.backbone.init_cfg.type=Pretrained
# model.backbone.init_cfg.checkpoint=vim_t_midclstok.pth
model = dict(
    type='mmscope.MambaScopeClassifier',
    backbone=dict(
        type='mmscope.MambaScopeBackbone',
        arch=dict(embed_dims=192, num_layers=24),
        out_indices=(23,),
        out_type='cls_token',
        alpha=0.8,
        eta=0.7,
        exit_head=dict(
            type='mmscope.SingleLabelExitHead',
            num_classes=1000,
            label_smoothing=0.1,
        ),
        cuda_graphs=True,
    ),
    train_cfg=_base_.batch_augments,
)
val_evaluator = [*_base_.val_evaluator, dict(type='mmscope.ExitMetric')]
test_evaluator = val_evaluator
# 200 epochs with all cells refined, 100 with the most important ones
default_hooks = dict(
    alpha_schedule=dict(type='mmscope.AlphaScheduleHook', full_until=2 / 3),
    exit_statistics=dict(type='mmscope.ExitStatisticsHook'),
)

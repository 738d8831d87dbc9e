# batch 64 = 8 GPUs x 8 images; 380k iterations are 206 epochs
max_iters = 380000
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmscope.LayerDecayConstructor',
    optimizer=dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1
    ),
    paramwise_cfg=dict(
        # ViTDet's 0.7 for the 12 layers of ViT-B; its root for 24
        layer_decay_rate=0.837,
        # biases and norms, RMSNorm's too, but for those that mixers stack
        flat_decay_mult=0.0,
        custom_keys={
            'pos_embed': dict(decay_mult=0.0),
            'cls_token': dict(decay_mult=0.0),
            'A_log': dict(decay_mult=0.0),
            'mixer.D': dict(decay_mult=0.0),
            'dt_bias': dict(decay_mult=0.0),
            'conv_bias': dict(decay_mult=0.0),
        },
    ),
)
# the paper names no warm-up here; these are ViTDet's 250 iterations
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(
        type='PolyLR',
        power=1.0,
        eta_min=0.0,
        by_epoch=False,
        begin=250,
        end=max_iters,
    ),
]
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=max_iters, val_interval=19000
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=64)

# Table 1, R-MeeTo-S: 79.9 top-1, 3.6 GFLOPs; 15 epochs
_base_ = './vim_t_rmeeto_in1k.py'

embed_dims, max_epochs = 384, 15
load_from = 'vim_s_in1k.pth'
arch = dict(embed_dims=embed_dims)
model = dict(
    backbone=dict(arch=arch, token_reduction=dict(num_merged=11)),
    head=dict(in_channels=embed_dims),
    teacher_checkpoint=load_from,
    teacher=dict(backbone=dict(arch=arch), head=dict(in_channels=embed_dims)),
)
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-6,
        by_epoch=True,
        end=max_epochs,
        convert_to_iter_based=True,
    )
]
train_cfg = dict(max_epochs=max_epochs)

# Table 1, R-MeeTo-T: 75.3 top-1, 1.3 GFLOPs
#
# Trained on from weights of vim_t_in1k.py, which are the teacher's, too: your
# own, or tools/convert_vim_checkpoint.py --classifier of the official ones.
# 30 epochs of batch 512, 4 GPUs x 128 images; every parameter decays.
_base_ = './vim_t_in1k.py'

embed_dims, max_epochs = 192, 30
load_from = 'vim_t_in1k.pth'
model = dict(
    type='mmscope.DistilledClassifier',
    backbone=dict(
        cuda_graphs=False,
        drop_path_rate=0.1,
        token_reduction=dict(type='mmscope.TokenMerging', num_merged=5),
    ),
    teacher_checkpoint=load_from,
    teacher=dict(
        type='ImageClassifier',
        backbone=dict(
            type='mmscope.VisionMambaBackbone',
            arch=dict(embed_dims=embed_dims, num_layers=24),
            out_indices=(23,),
            out_type='cls_token',
        ),
        head=dict(
            type='LinearClsHead', num_classes=1000, in_channels=embed_dims
        ),
    ),
)
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(
    optimizer=dict(lr=2e-5, weight_decay=0.05),
    paramwise_cfg=dict(_delete_=True),
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
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
auto_scale_lr = dict(base_batch_size=512)

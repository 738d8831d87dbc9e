# Table 1, DyVM-T: 75.2 top-1, 1.3 GFLOPs
#
# Trained on from weights of vim_t_in1k.py, which are the teacher's, too: your
# own, or tools/convert_vim_checkpoint.py --classifier of the official ones.
# 30 epochs of batch 512, 4 GPUs x 128 images.
_base_ = './vim_t_in1k.py'

embed_dims, max_epochs, warmup_epochs = 192, 30, 5
load_from = 'vim_t_in1k.pth'
model = dict(
    type='mmscope.DistilledClassifier',
    backbone=dict(
        cuda_graphs=False,
        drop_path_rate=0.0,
        token_reduction=dict(
            type='mmscope.DynamicTokens',
            keep_ratio=0.9,
            blocks=(6, 12, 18),
            direction_ratio=0.8,
        ),
    ),
    distill_weight=0.5,
    token_weight=0.5,
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
optim_wrapper = dict(optimizer=dict(lr=3e-5, weight_decay=1e-8))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        end=warmup_epochs,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-6,
        by_epoch=True,
        begin=warmup_epochs,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
auto_scale_lr = dict(base_batch_size=512)

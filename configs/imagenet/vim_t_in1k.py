# Table 1, Vim-T: 76.1 top-1, 7M parameters, 1.5 GFLOPs
_base_ = [
    './_base_/imagenet.py',
    './_base_/schedule_300e.py',
    './_base_/runtime.py',
]

embed_dims = 192
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmscope.VisionMambaBackbone',
        arch=dict(embed_dims=embed_dims, num_layers=24),
        out_indices=(23,),
        out_type='cls_token',
        cuda_graphs=True,
    ),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=embed_dims,
        loss=dict(
            type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'
        ),
    ),
    train_cfg=_base_.batch_augments,
)

# A small plain Vim for 10 classes
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmscope.VisionMambaBackbone',
        arch=dict(embed_dims=64, num_layers=6),
        img_size=112,
        patch_size=8,
        out_indices=(5,),
        out_type='cls_token',
    ),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)

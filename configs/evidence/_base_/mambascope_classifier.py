# The same with MambaScope in place of Vim, as in the paper
model = dict(
    type='mmscope.MambaScopeClassifier',
    backbone=dict(
        type='mmscope.MambaScopeBackbone',
        arch=dict(embed_dims=64, num_layers=6),
        img_size=112,
        patch_size=8,
        out_indices=(5,),
        out_type='cls_token',
        alpha=0.8,
        eta=0.7,
        exit_head=dict(type='mmscope.SingleLabelExitHead', num_classes=10),
    ),
)

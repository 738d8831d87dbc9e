# MambaScope-S as the ablations have it. What they change is written out with
# its default, so that the default's rows are one and the same model.
model = dict(
    type='mmscope.MambaScopeClassifier',
    backbone=dict(
        type='mmscope.MambaScopeBackbone',
        # 'small'
        arch=dict(embed_dims=384, num_layers=24),
        img_size=224,
        patch_size=16,
        out_indices=(23,),
        out_type='cls_token',
        drop_path_rate=0.05,
        # every image takes both passes: the ablations are of the fine one
        eta=1.0,
        exit_head=dict(
            type='mmscope.SingleLabelExitHead',
            num_classes=100,
            label_smoothing=0.1,
        ),
        importance='max_softplus',
        alpha=0.8,
        beta=0.99,
        score_layers=[12, 14, 16, 18, 20, 22],
        reuse='mlp',
        reuse_cls=False,
        cls_position='middle',
        token_order='important_first',
    ),
)

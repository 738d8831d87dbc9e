# The same with MambaScope in place of Vim, as in the paper
_base_ = ['vim.py']

model = dict(
    type='mmscope.MambaScopeSegmentor',
    data_preprocessor=dict(type='mmscope.ScopeSegDataPreprocessor'),
    backbone=dict(
        type='mmscope.MambaScopeBackbone',
        alpha=0.8,
        exit_head=dict(type='mmscope.MultiLabelExitHead', num_classes=8),
        exit_policy=dict(type='mmscope.PixelConfidence'),
        exit_resolution='coarse',
    ),
    coarse_decode_weight=0.4,
    exit_weight=2.0,
)

# The same with MambaScope in place of Vim, as in the paper
_base_ = ['cascade_vim.py']

model = dict(
    type='mmscope.MambaScopeCascadeRCNN',
    backbone=dict(
        type='mmscope.MambaScopeBackbone',
        alpha=0.8,
        eta=0.8,
        exit_head=dict(type='mmscope.MultiLabelExitHead', num_classes=12),
        exit_resolution='coarse',
    ),
    coarse_decode_weight=0.4,
)

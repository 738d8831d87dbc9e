# Table 2, Vim-S, 44.9 mIoU, by the recipe of Vim's own code
_base_ = './vim_t_ade20k_vim.py'

embed_dims = 384
embed = 0.95**25

model = dict(
    # graphs know no rotary positions
    backbone=dict(
        arch=dict(embed_dims=embed_dims), rope=True, cuda_graphs=False
    ),
    neck=dict(embed_dim=embed_dims),
    decode_head=dict(in_channels=[embed_dims] * 4, channels=embed_dims),
    auxiliary_head=dict(in_channels=embed_dims),
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys={
            'pos_embed': dict(lr_mult=embed),
            'patch_embed': dict(lr_mult=embed),
            'patch_embed.proj.bias': dict(lr_mult=embed),
        },
    ),
)

# Table 1, DyVM-S: 78.8 top-1, 3.5 GFLOPs; 5e-5 for a batch of 512, here
# 4 GPUs x 64 images
_base_ = './vim_t_dyvm_in1k.py'

embed_dims = 384
load_from = 'vim_s_in1k.pth'
arch = dict(embed_dims=embed_dims)
model = dict(
    backbone=dict(
        arch=arch,
        token_reduction=dict(keep_ratio=0.7, direction_ratio=0.8),
    ),
    head=dict(in_channels=embed_dims),
    teacher_checkpoint=load_from,
    teacher=dict(backbone=dict(arch=arch), head=dict(in_channels=embed_dims)),
)
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=2.5e-5))
auto_scale_lr = dict(base_batch_size=256)

# Table 1, "ViM-T + HA" (HiddenAlign): 75.1 top-1, 1.3 GFLOPs
#
# Trained on from weights of vim_t_in1k.py: your own, or
# tools/convert_vim_checkpoint.py --classifier of the official ones. 30 epochs
# of batch 512, 8 GPUs x 64 images, without a teacher.
_base_ = './vim_t_in1k.py'

max_epochs = 30
load_from = 'vim_t_in1k.pth'
model = dict(
    backbone=dict(
        cuda_graphs=False,
        token_reduction=dict(
            type='mmscope.HiddenAlignPruning', ratio=0.8, blocks=(9, 19)
        ),
    )
)
# it rises to its smallest value, as theirs does
optim_wrapper = dict(optimizer=dict(lr=5e-6, weight_decay=1e-8))
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        end=max_epochs,
        convert_to_iter_based=True,
    )
]
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
auto_scale_lr = dict(base_batch_size=512)

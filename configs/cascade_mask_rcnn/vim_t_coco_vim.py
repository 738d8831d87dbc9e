# Table 3, Vim-Ti, 45.7 box AP, 39.2 mask AP, by the recipe of Vim's own code
# in place of the paper's: its heads, 184375 iterations (100 epochs) in steps,
# and rotary positions without class token and norms. Vim trains in float16:
# tools/train.py --amp.
_base_ = './vim_t_coco_full.py'

max_iters = 184375
model = dict(
    # graphs know no rotary positions
    backbone=dict(
        with_cls=False, level_norm=False, rope=True, cuda_graphs=False
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(
        type='MultiStepLR',
        milestones=[163889, 177546],
        gamma=0.1,
        by_epoch=False,
    ),
]
train_cfg = dict(max_iters=max_iters)

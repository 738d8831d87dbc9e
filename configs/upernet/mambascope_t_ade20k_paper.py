# The method of the paper alone: alpha is 0.8 throughout, exited images are
# decoded at stride 16, and no loss sees their coarse maps. Tested as Vim is:
# windows slide over the images, and each of them decides.
_base_ = './mambascope_t_ade20k.py'

model = dict(
    data_preprocessor=dict(test_cfg=_base_.slide_padding),
    backbone=dict(exit_resolution='fine'),
    coarse_decode_weight=0.0,
    test_cfg=_base_.slide,
)
default_hooks = dict(alpha_schedule=dict(full_until=0.0))

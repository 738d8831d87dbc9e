# The method of the paper alone: alpha is 0.8 throughout, exited images are
# detected at stride 16, and no loss sees their coarse maps. Tested as the
# paper says, with the shorter side at 1024, which stretches the position
# embeddings: without the lines from data_preprocessor and val_dataloader on,
# on the canvas of training.
_base_ = './mambascope_t_coco.py'

model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(exit_resolution='fine'),
    coarse_decode_weight=0.0,
)
val_dataloader = dict(dataset=dict(pipeline=_base_.short_side_pipeline))
test_dataloader = val_dataloader
default_hooks = dict(alpha_schedule=dict(full_until=0.0))

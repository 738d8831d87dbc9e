# The method of the paper alone: alpha is 0.8 throughout, exited images are
# detected at stride 16, and no loss sees their coarse maps.
_base_ = './mambascope_s_coco.py'

model = dict(backbone=dict(exit_resolution='fine'), coarse_decode_weight=0.0)
default_hooks = dict(alpha_schedule=dict(full_until=0.0))

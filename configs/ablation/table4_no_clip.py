# Table 4: mean, not clipped
_base_ = './_base_/ablation.py'
model = dict(backbone=dict(importance='no_clip'))

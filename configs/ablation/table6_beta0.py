# Table 6: beta 0
_base_ = './_base_/ablation.py'
model = dict(backbone=dict(beta=0.0))

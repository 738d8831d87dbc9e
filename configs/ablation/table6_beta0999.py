# Table 6: beta 0.999
_base_ = './_base_/ablation.py'
model = dict(backbone=dict(beta=0.999))

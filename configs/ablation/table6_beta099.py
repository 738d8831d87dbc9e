# Table 6: beta 0.99, the default
_base_ = './_base_/ablation.py'
model = dict(backbone=dict(beta=0.99))

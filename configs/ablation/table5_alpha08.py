# Table 5: alpha 0.8, the default
_base_ = './_base_/ablation.py'
model = dict(backbone=dict(alpha=0.8))

# Table 5: alpha 0.9
_base_ = './_base_/ablation.py'
model = dict(backbone=dict(alpha=0.9))

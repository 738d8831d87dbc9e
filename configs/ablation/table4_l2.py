# Table 4: L2 norm
_base_ = './_base_/ablation.py'
model = dict(backbone=dict(importance='l2'))

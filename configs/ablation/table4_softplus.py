# Table 4: mean of softplus
_base_ = './_base_/ablation.py'
model = dict(backbone=dict(importance='softplus'))

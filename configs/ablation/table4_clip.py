# Table 4: mean of what is above 0
_base_ = './_base_/ablation.py'
model = dict(backbone=dict(importance='clip'))

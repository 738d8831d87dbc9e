# Table 4: maximum of softplus (Eq. 11), the default
_base_ = './_base_/ablation.py'
model = dict(backbone=dict(importance='max_softplus'))

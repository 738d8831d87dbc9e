# Table 4: mean of the 8 largest; 8 is our guess
_base_ = './_base_/ablation.py'
model = dict(backbone=dict(importance='topk'))

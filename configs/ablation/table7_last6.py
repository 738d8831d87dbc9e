# Table 7: every second of the last 6 layers scores
_base_ = './_base_/ablation.py'
model = dict(backbone=dict(score_layers=[18, 20, 22]))

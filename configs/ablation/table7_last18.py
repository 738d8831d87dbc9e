# Table 7: every second of the last 18 layers scores
_base_ = './_base_/ablation.py'
model = dict(backbone=dict(score_layers=[6, 8, 10, 12, 14, 16, 18, 20, 22]))

# Table 7: every second of the last 12 layers scores, the default
_base_ = './_base_/ablation.py'
model = dict(backbone=dict(score_layers=[12, 14, 16, 18, 20, 22]))

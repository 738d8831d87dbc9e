# Figure 5(b): CLS ahead of the important tokens
_base_ = './_base_/ablation.py'
model = dict(backbone=dict(cls_position='first'))

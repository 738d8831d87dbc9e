# Figure 5(b): important tokens last
_base_ = './_base_/ablation.py'
model = dict(backbone=dict(token_order='important_last'))

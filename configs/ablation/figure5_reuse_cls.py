# Figure 5(a): the class token is reused as well
_base_ = './_base_/ablation.py'
model = dict(backbone=dict(reuse_cls=True))

# Figure 5(a): a linear layer instead of the MLP
_base_ = './_base_/ablation.py'
model = dict(backbone=dict(reuse='linear'))

# Figure 5: the default, CLS in the middle (Algorithm 2)
_base_ = './_base_/ablation.py'

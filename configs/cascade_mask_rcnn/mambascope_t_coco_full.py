# Table 3, MambaScope-Ti, 45.8 box AP, 39.4 mask AP, with the heads that Vim's
# own scripts train
_base_ = ['./mambascope_t_coco.py', './_base_/heads_full.py']

model = _base_.heads

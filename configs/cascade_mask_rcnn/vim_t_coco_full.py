# Table 3, Vim-Ti, 45.7 box AP, 39.2 mask AP, with the heads that Vim's
# own scripts train
_base_ = ['./vim_t_coco.py', './_base_/heads_full.py']

model = _base_.heads

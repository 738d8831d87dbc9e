# Table 3, Vim-Ti, 45.7 box AP, 39.2 mask AP, with heads that meet
# its 30M parameters: a hypothesis
_base_ = ['./vim_t_coco.py', './_base_/heads_30m.py']

model = _base_.heads

# Table 3, MambaScope-Ti, 45.8 box AP, 39.4 mask AP, with heads that meet
# its 30M parameters: a hypothesis
_base_ = ['./mambascope_t_coco.py', './_base_/heads_30m.py']

model = _base_.heads

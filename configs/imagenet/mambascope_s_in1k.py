# Table 1, MambaScope-S: 81.2 top-1, 28M parameters, 4.3 GFLOPs; with eta .5
# .55 .65 79.8 80.3 80.7 and 2.5 2.7 3.1 GFLOPs
_base_ = './mambascope_t_in1k.py'

model = dict(backbone=dict(arch=dict(embed_dims=384), drop_path_rate=0.05))

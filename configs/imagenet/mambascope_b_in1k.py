# Table 1, MambaScope-B with eta .7: 82.8 top-1, 102M parameters, 11.8 GFLOPs
#
# The paper names no drop path; it is that of S.
_base_ = './mambascope_s_in1k.py'

model = dict(backbone=dict(arch=dict(embed_dims=768)))

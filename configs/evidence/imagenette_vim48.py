# A plain Vim of three quarters of the width on Imagenette: two thirds of the
# cost; see docs/classification.md
_base_ = ['imagenette_vim.py']

model = dict(
    backbone=dict(arch=dict(embed_dims=48)), head=dict(in_channels=48)
)

# The demo, whose fine pass has four tokens for all cells that are not refined:
# see docs/evidence.md
_base_ = ['../demo/mambascope_demo.py']

model = dict(backbone=dict(num_context=4))

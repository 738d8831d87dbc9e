# The demo with registers: do they turn importance into something that finds
# objects? See docs/evidence.md
_base_ = ['../demo/mambascope_demo.py']

model = dict(backbone=dict(num_registers=4))

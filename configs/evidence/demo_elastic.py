# The demo, whose fine pass carries the cells that are not refined, too: see
# docs/evidence.md
_base_ = ['../demo/mambascope_demo.py']

model = dict(
    backbone=dict(alpha=(0.2, 0.4, 0.6, 0.8, 1.0), unselected='embedding')
)

# The demo by the method of the paper: see docs/evidence.md
_base_ = ['../demo/mambascope_demo.py']

model = dict(
    backbone=dict(
        alpha=0.8,
        cell_score=None,
        unselected='embedding',
        eta=0.925,
        tau=None,
    )
)

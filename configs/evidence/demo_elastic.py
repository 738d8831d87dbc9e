# The demo, with as many cells refined as an image needs, by the coarse
# answer's own uncertainty: see docs/evidence.md
_base_ = ['../demo/mambascope_demo.py']

model = dict(
    backbone=dict(
        alpha=(0.2, 0.4, 0.6, 0.8, 1.0),
        cell_score=dict(type='mmscope.CoarseUncertainty'),
    )
)

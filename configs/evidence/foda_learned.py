# Elastic MambaScope, refined where a layer has learned that it changes the
# features: see docs/evidence.md
_base_ = ['foda_paper.py']

model = dict(
    backbone=dict(
        alpha=(0.2, 0.4, 0.6, 0.8, 1.0),
        cell_score=dict(type='mmscope.LearnedCells', target='change'),
    )
)

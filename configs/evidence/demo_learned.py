# The elastic demo by a layer that learns where the coarse answer is wrong:
# see docs/evidence.md
_base_ = ['demo_elastic.py']

model = dict(
    backbone=dict(cell_score=dict(type='mmscope.LearnedCells', target='error'))
)

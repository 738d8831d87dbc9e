# Refined where a layer has learned that the coarse answer is wrong: see
# docs/evidence.md
_base_ = ['demo_elastic.py']

model = dict(
    backbone=dict(
        cell_score=dict(
            _delete_=True, type='mmscope.LearnedCells', target='error'
        )
    )
)

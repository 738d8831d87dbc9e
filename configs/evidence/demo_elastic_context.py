# demo_elastic_drop.py, whose fine pass has four tokens for all cells that are
# not refined: see docs/evidence.md
_base_ = ['demo_elastic.py']

model = dict(
    backbone=dict(
        alpha=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0),
        unselected='drop',
        num_context=4,
    )
)

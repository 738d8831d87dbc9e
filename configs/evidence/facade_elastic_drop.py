# Elastic MambaScope that leaves unrefined cells out of the fine pass, on
# labelmefacade: see docs/evidence.md
_base_ = ['facade_elastic.py']

model = dict(
    backbone=dict(
        alpha=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0), unselected='drop'
    )
)

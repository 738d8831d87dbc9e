# The method of the paper with registers: do they turn importance into
# something that finds objects? See docs/evidence.md
_base_ = ['demo_paper.py']

model = dict(backbone=dict(num_registers=4))

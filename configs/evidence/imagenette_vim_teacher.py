# Plain Vim on what a teacher says, of benchmarks/teacher_labels.py: see
# docs/classification.md
_base_ = ['imagenette_vim.py']

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='mmscope.LoadSoftLabels', path='imagenette_teacher.npz'),
            dict(type='RandomResizedCrop', scale=_base_.image_size),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ]
    )
)
model = dict(head=dict(loss=dict(type='CrossEntropyLoss', use_soft=True)))

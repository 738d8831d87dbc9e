# A classifier with the patches of the street scenes' segmentors, to start
# them from: see docs/classification.md
_base_ = ['imagenette_paper.py']

image_size = 128
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=image_size),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ]
    )
)
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='CenterCrop', crop_size=image_size),
            dict(type='PackInputs'),
        ]
    )
)
test_dataloader = val_dataloader
model = dict(backbone=dict(img_size=image_size, patch_size=16))

# A plain Vim on half-size images of Imagenette: a quarter of the cost; see
# docs/classification.md
_base_ = ['imagenette_vim.py']

full_size, image_scale = _base_.image_size, 0.5
image_size = int(image_scale * full_size)
halve = dict(
    type='Resize', scale=(image_size, image_size), interpolation='area'
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=full_size),
            halve,
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ]
    )
)
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='CenterCrop', crop_size=full_size),
            halve,
            dict(type='PackInputs'),
        ]
    )
)
test_dataloader = val_dataloader
model = dict(backbone=dict(img_size=image_size))

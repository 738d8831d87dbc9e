# Plain Vim on half-size images of labelmefacade: a quarter of the cost; see
# docs/evidence.md
_base_ = ['facade_vim.py']

image_scale = 0.5
half = dict(type='Resize', scale_factor=image_scale, keep_ratio=True)
model = dict(data_preprocessor=dict(size=(96, 96)))
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            {{_base_.load_image}},
            {{_base_.load_mask}},
            {{_base_.check_labels}},
            dict(
                type='RandomResize',
                scale=(256, 192),
                ratio_range=(0.75, 1.5),
                keep_ratio=True,
            ),
            dict(
                type='RandomCrop',
                crop_size={{_base_.crop_size}},
                cat_max_ratio=0.75,
            ),
            half,
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ]
    )
)
test_pipeline = [
    {{_base_.load_image}},
    half,
    {{_base_.load_mask}},
    {{_base_.check_labels}},
    dict(type='PackSegInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

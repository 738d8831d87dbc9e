# miniImageNet, 100 classes of 600 images, read and augmented as ImageNet is:
# see docs/ablations.md for its files
_base_ = ['../../imagenet/_base_/imagenet.py']

dataset_type = 'CustomDataset'
data_root = 'data/mini_imagenet'
data_preprocessor = dict(num_classes=100)
data = dict(
    _delete_=True, type=dataset_type, data_root=data_root, data_prefix=''
)
train_dataloader = dict(
    batch_size=256,
    dataset=dict(
        data, ann_file='meta/train.txt', pipeline=_base_.train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=256,
    dataset=dict(data, ann_file='meta/val.txt', pipeline=_base_.test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = [*_base_.val_evaluator, dict(type='mmscope.ExitMetric')]
test_evaluator = val_evaluator

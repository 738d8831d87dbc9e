"""Images of three classes, in folders named after them, and a classifier."""

from pathlib import Path

import cv2
import numpy as np
import torch

ROOT = Path(__file__).parents[2]
# OpenCV's channel order
COLOURS = dict(blue=(200, 40, 40), green=(40, 200, 40), red=(40, 40, 200))
CONFIG = """
_base_ = '{root}/configs/{base}.py'
data_preprocessor = dict(num_classes=3)
model = dict(
    backbone=dict(
        arch=dict(embed_dims=16, num_layers=2, d_state=4),
        img_size=32,
        out_indices=(1,),
        exit_head=dict(num_classes=3),
    ),
)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='CenterCrop', crop_size=32),
    dict(type='PackInputs'),
]
data = dict(
    _delete_=True,
    type='CustomDataset',
    data_root='{data}',
    classes=('blue', 'green', 'red'),
    pipeline=pipeline,
)
train_dataloader = dict(
    batch_size=6, num_workers=0, dataset=dict(data, data_prefix='train')
)
val_dataloader = dict(
    batch_size=4, num_workers=0, dataset=dict(data, data_prefix='val')
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='Accuracy', topk=(1,)),
    dict(type='mmscope.ExitMetric'),
]
test_evaluator = val_evaluator
param_scheduler = dict(_delete_=True, type='ConstantLR', factor=1)
optim_wrapper = dict(optimizer=dict(lr=0.01))
train_cfg = dict(max_epochs=2, val_interval=1)
default_hooks = dict(
    checkpoint=dict(interval=1, max_keep_ckpts=-1, save_best=None)
)
"""


def write_images(folder: Path, number: int) -> None:
    """Write images of 40 x 48 (H x W) below a folder for each class."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for index in range(number):
            noise = rng.integers(-40, 40, (40, 48, 3))
            image = np.clip(np.array(colour) + noise, 0, 255)
            path = folder / name / f'{name}_{index}.png'
            cv2.imwrite(str(path), image.astype(np.uint8))


def write_classifier(
    folder: Path, base: str = 'evidence/imagenette_paper', more: str = ''
) -> Path:
    """Write images and the config of a classifier that learns them fast.

    Args:
        folder: Folder of both.
        base: Config of the project that it differs from.
        more: More settings.
    """
    write_images(folder / 'data/train', 8)
    write_images(folder / 'data/val', 4)
    path = folder / 'classifier.py'
    text = CONFIG.format(root=ROOT, base=base, data=folder / 'data')
    path.write_text(text + more)
    return path


def weights(path: Path, key: str = 'state_dict') -> dict[str, torch.Tensor]:
    """Weights of a checkpoint, raw ones or 'ema_state_dict'."""
    return torch.load(path, weights_only=True)[key]


def assert_same_weights(actual: Path, expected: Path) -> None:
    """Compare the raw and the averaged weights of two checkpoints exactly."""
    for key in ('state_dict', 'ema_state_dict'):
        ours, theirs = weights(actual, key), weights(expected, key)
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(
                ours[name], value, rtol=0, atol=0, msg=f'{key} {name}'
            )

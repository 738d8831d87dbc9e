"""A small MambaScope learns real images, and only the right masks."""

from pathlib import Path

import pytest
from mmengine.config import Config
from PIL import Image

from mmscope.engine.launch import build_runner

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CONFIG = """
_base_ = '{root}/configs/upernet/mambascope_t_ade20k.py'
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
width, channels = 192, 96
model = dict(
    data_preprocessor=dict(size=(256, 256)),
    backbone=dict(
        drop_path_rate=0.0,
        arch=dict(embed_dims=width, num_layers=6),
        img_size=256,
        out_indices=(1, 2, 3, 5),
        eta=1.0,
    ),
    neck=dict(embed_dim=width),
    decode_head=dict(
        in_channels=[width] * 4, channels=channels, dropout_ratio=0.0
    ),
    auxiliary_head=None,
    coarse_decode_weight=0.0,
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root='{data}', pipeline=pipeline),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root='{data}',
        data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/truth'
        ),
        pipeline=pipeline,
    ),
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5.0)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=20),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=20, end={iters}),
]
train_cfg = dict(max_iters={iters}, val_interval={iters})
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval={iters}, save_best=None),
    alpha_schedule=dict(full_until=0.0),
)
test_dataloader = None
test_evaluator = None
test_cfg = None
"""


def write_data(source: Path, target: Path, shift: int) -> None:
    """Copy the training pairs at 256 x 256, masks moved on by ``shift``."""
    images = sorted((source / 'images/training').iterdir())
    masks = sorted((source / 'annotations/training').iterdir())
    for folder in ('images', 'annotations'):
        (target / folder / 'training').mkdir(parents=True)
    (target / 'annotations/truth').mkdir()
    for index, image in enumerate(images):
        name = f'{image.stem}.png'
        Image.open(image).convert('RGB').resize((256, 256)).save(
            (target / 'images/training' / name).with_suffix('.jpg'),
            quality=95,
        )
        for folder, mask in (
            ('training', masks[(index + shift) % len(masks)]),
            ('truth', masks[index]),
        ):
            small = Image.open(mask).resize((256, 256), Image.NEAREST)
            small.save(target / 'annotations' / folder / name)


def overfit(source: Path, folder: Path, shift: int, iters: int) -> dict:
    """Train on the eight pairs; evaluate on them with their true masks."""
    write_data(source, folder / 'data', shift)
    path = folder / 'overfit.py'
    path.write_text(
        CONFIG.format(root=ROOT, data=folder / 'data', iters=iters)
    )
    cfg = Config.fromfile(path)
    cfg.work_dir = str(folder / 'work')
    runner = build_runner(cfg, 'none', ('train', 'val'))
    runner.train()
    return runner.message_hub.log_scalars


def test_it_overfits_real_images_and_a_control_does_not(
    real_data, tmp_path
) -> None:
    learnt = overfit(real_data / 'ade_mini', tmp_path / 'true', 0, 700)
    control = overfit(real_data / 'ade_mini', tmp_path / 'control', 3, 150)
    accuracy, miou = (learnt[f'val/{k}'].current() for k in ('aAcc', 'mIoU'))
    assert accuracy >= 95
    assert miou >= 70
    assert control['val/aAcc'].current() < accuracy - 30
    assert control['val/mIoU'].current() < miou / 2

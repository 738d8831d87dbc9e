"""A tiny segmentor that tests share."""

import copy
from collections.abc import Callable

import pytest
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmscope.models import MambaScopeSegmentor

BN = dict(type='BN')
SEGMENTOR = ConfigDict(
    type='mmscope.MambaScopeSegmentor',
    data_preprocessor=dict(
        type='mmscope.ScopeSegDataPreprocessor',
        mean=[0.0, 0.0, 0.0],
        std=[1.0, 1.0, 1.0],
        size=(64, 96),
        bgr_to_rgb=False,
    ),
    backbone=dict(
        type='mmscope.MambaScopeBackbone',
        arch=dict(embed_dims=32, num_layers=4, d_state=4),
        img_size=(64, 96),
        out_indices=(0, 1, 2, 3),
        alpha=0.5,
        eta=1.0,
        exit_head=dict(type='mmscope.MultiLabelExitHead', num_classes=5),
        exit_resolution='coarse',
    ),
    neck=dict(
        type='Feature2Pyramid',
        embed_dim=32,
        rescales=[4, 2, 1, 0.5],
        norm_cfg=BN,
    ),
    decode_head=dict(
        type='UPerHead',
        in_channels=[32] * 4,
        in_index=[0, 1, 2, 3],
        channels=16,
        dropout_ratio=0.0,
        num_classes=5,
        norm_cfg=BN,
        align_corners=False,
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=32,
        in_index=2,
        channels=16,
        num_convs=1,
        num_classes=5,
        norm_cfg=BN,
    ),
    coarse_decode_weight=0.4,
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)


@pytest.fixture
def segmentor_config() -> ConfigDict:
    """Config of a tiny segmentor, to change."""
    return copy.deepcopy(SEGMENTOR)


@pytest.fixture
def make_segmentor(
    segmentor_config: ConfigDict,
) -> Callable[..., MambaScopeSegmentor]:
    """Build a tiny segmentor; options with dots reach into the config."""

    def build(**options: object) -> MambaScopeSegmentor:
        init_default_scope('mmseg')
        cfg = copy.deepcopy(segmentor_config)
        for path, value in options.items():
            node, *rest = path.split('__')
            if rest:
                cfg[node][rest[0]] = value
            else:
                cfg[node] = value
        return MODELS.build(ConfigDict(cfg)).eval()

    return build


@pytest.fixture
def segmentor(make_segmentor: Callable) -> MambaScopeSegmentor:
    """A tiny segmentor whose confidences differ between images."""
    model = make_segmentor()
    model.backbone.exit_head.fc.weight.data *= 50
    return model

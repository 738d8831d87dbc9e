"""Small networks and data that tests share."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmscope.models import MambaScopeBackbone, VisionMambaBackbone

ROOT = Path(__file__).parents[1]
TINY = dict(
    arch=dict(embed_dims=32, num_layers=4, d_state=4),
    img_size=(64, 96),
    out_indices=(1, 3),
)
HEAD = dict(type='mmscope.MultiLabelExitHead', num_classes=5)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def make_net() -> Callable[..., MambaScopeBackbone]:
    """Build a tiny MambaScope in evaluation mode."""

    def make(**options: object) -> MambaScopeBackbone:
        settings = {**TINY, 'exit_head': HEAD, 'alpha': 0.5, **options}
        return MambaScopeBackbone(**settings).eval()

    return make


@pytest.fixture
def make_vim() -> Callable[..., VisionMambaBackbone]:
    """Build a tiny Vision Mamba in evaluation mode."""

    def make(**options: object) -> VisionMambaBackbone:
        return VisionMambaBackbone(**{**TINY, **options}).eval()

    return make


@pytest.fixture
def real_data() -> Path:
    """Folder with real samples of ADE20K and COCO."""
    default = ROOT.parent / 'shared' / 'data'
    folder = Path(os.environ.get('MMSCOPE_REAL_DATA', default))
    if not folder.is_dir():
        pytest.skip(f'no real data at {folder}; set MMSCOPE_REAL_DATA')
    return folder

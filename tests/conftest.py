"""Small networks and data that tests share."""

import os
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from model_files import (  # noqa: F401 - fixtures for all tests
    model_files,
    save_weights,
)
from segmentor_fixtures import (  # noqa: F401 - fixtures for all tests
    make_segmentor,
    segmentor,
    segmentor_config,
)
from single_run import single_run
from vim_weights import vim_file  # noqa: F401 - likewise

from mmscope.datasets import write_sample_data
from mmscope.engine.launch import build_runner, load_config
from mmscope.engine.options import set_resume
from mmscope.models import (
    MambaScopeBackbone,
    VisionMambaBackbone,
)
from mmscope.ops.scan import cpu as cpu_scan

ROOT = Path(__file__).parents[1]
TINY = dict(
    arch=dict(embed_dims=32, num_layers=4, d_state=4),
    img_size=(64, 96),
    out_indices=(1, 3),
)
HEAD = dict(type='mmscope.MultiLabelExitHead', num_classes=5)
# a UperNet that trains a step in a tenth of a second, with all that is random
# in the real one: crops, flips, colours, dropout and drop path
TINY_CONFIG = """
_base_ = '{root}/configs/upernet/{base}.py'
width, size = 32, (64, 96)
train_pipeline = [
    {{{{_base_.load_image}}}},
    {{{{_base_.load_mask}}}},
    {{{{_base_.check_labels}}}},
    dict(
        type='RandomResize',
        scale=(192, 96),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    {{{{_base_.load_image}}}},
    dict(type='Resize', scale=(192, 96), keep_ratio=True),
    {{{{_base_.load_mask}}}},
    {{{{_base_.check_labels}}}},
    dict(type='PackSegInputs'),
]
arch = dict(embed_dims=width, num_layers=4, d_state=4)
model = dict(
    data_preprocessor=dict(
        size=size, test_cfg=dict(size=None, size_divisor=32)
    ),
    backbone=dict(
        arch=arch, img_size=size, out_indices=(0, 1, 2, 3), drop_path_rate=0.2
    ),
    neck=dict(embed_dim=width),
    decode_head=dict(in_channels=[width] * 4, channels=width),
    auxiliary_head=dict(in_channels=width, channels=width),
    test_cfg=dict(mode='whole'),
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    dataset=dict(data_root='{data}', pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=0,
    dataset=dict(data_root='{data}', pipeline=test_pipeline, indices=3),
)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=4),
    dict(type='PolyLR', power=1.0, by_epoch=False, begin=4, end=9),
]
train_cfg = dict(max_iters=9, val_interval=4)
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=4)
)
"""


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


@pytest.fixture(scope='session')
def real_data() -> Path:
    """Folder with real samples of ADE20K and COCO."""
    default = ROOT.parent / 'shared' / 'data'
    folder = Path(os.environ.get('MMSCOPE_REAL_DATA', default))
    if not folder.is_dir():
        pytest.skip(f'no real data at {folder}; set MMSCOPE_REAL_DATA')
    return folder


@pytest.fixture(scope='session')
def sample_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small set of sample data for all tests that only read it."""
    root = tmp_path_factory.mktemp('sample') / 'data'
    write_sample_data(root, num_train=12, num_val=6, size=(96, 144))
    return root


@pytest.fixture(scope='session')
def tiny_config(
    tmp_path_factory: pytest.TempPathFactory, sample_root: Path
) -> Callable[..., Path]:
    """Write the config of a tiny UperNet; more lines change it."""

    def write(
        more: str = '',
        base: str = 'mambascope_t_ade20k',
        data: Path = sample_root,
    ) -> Path:
        path = tmp_path_factory.mktemp('config') / 'tiny.py'
        text = TINY_CONFIG.format(root=ROOT, base=base, data=data)
        path.write_text(text + more)
        return path

    return write


@pytest.fixture(scope='session')
def train() -> Callable[..., Runner]:
    """Train in this process as tools/train.py does."""

    def run(
        config: Path, work_dir: Path, *hooks: Hook, resume: str = ''
    ) -> Runner:
        with single_run():
            cfg = load_config(str(config), str(work_dir))
            if resume:
                set_resume(cfg, resume)
            runner = build_runner(cfg, 'none', ('train', 'val'))
            for hook in hooks:
                runner.register_hook(hook, 'LOWEST')
            runner.train()
            return runner

    return run


@pytest.fixture
def run_tool(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a file of tools/ in this process, which saves seconds."""

    def run(tool: str, *arguments: object) -> None:
        path = str(ROOT / 'tools' / tool)
        monkeypatch.setattr(sys, 'argv', [path, *map(str, arguments)])
        with single_run():
            runpy.run_path(path, run_name='__main__')

    return run


@pytest.fixture(params=['avx512', 'avx2', 'baseline'])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set that this machine has."""
    if cpu_scan.NOT_BUILT:
        pytest.skip(cpu_scan.NOT_BUILT)
    if request.param not in torch.ops.mmscope.scan_list_isas().split():
        pytest.skip(f'this CPU has no {request.param}')
    before = torch.ops.mmscope.scan_set_isa(request.param)
    yield request.param
    torch.ops.mmscope.scan_set_isa(before)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)

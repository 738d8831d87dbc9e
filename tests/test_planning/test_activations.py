"""What autograd keeps, against counts by hand."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmscope.benchmark.build import build_model
from mmscope.engine.launch import load_config
from mmscope.models import VisionMambaBackbone
from mmscope.ops.scan.cpu import CHUNK
from mmscope.ops.scan.inputs import Inputs, Options
from mmscope.planning.activations import (
    Activations,
    SavedBytes,
    checkpointed,
    measure_activations,
    saved_bytes,
)
from mmscope.planning.batches import training_shape
from mmscope.planning.memory import TEMPORARY_SHARE


def test_each_storage_is_counted_once_and_weights_are_not() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    counter = SavedBytes(net)
    with counter.counting():
        net(torch.rand(4, 3)).square().sum()
    # the input, what ReLU gives, which two layers keep, and what is squared
    assert counter.total == 4 * (4 * 3 + 4 * 5 + 4 * 2)


def test_a_view_keeps_its_whole_storage() -> None:
    x = torch.rand(8, 6, requires_grad=True)
    counter = SavedBytes(nn.Identity())
    with counter.counting():
        (2 * x)[:2].square().sum()
    assert counter.total == 8 * 6 * 4


def test_what_is_freed_is_not_mistaken_for_what_comes_after() -> None:
    counter = SavedBytes(nn.Identity())
    x = torch.rand(1000, requires_grad=True)
    with counter.counting():
        for _ in range(3):
            (2 * x).square().sum()  # the graph is gone at once
    assert counter.total == 3 * 4000


def test_nothing_is_kept_and_backward_says_so() -> None:
    net = nn.Linear(3, 2)
    with SavedBytes(net).counting():
        loss = net(torch.rand(4, 3)).square().sum()
    with pytest.raises(RuntimeError, match='counted, and not kept'):
        loss.backward()


def test_mixed_precision_keeps_half_of_what_is_cast() -> None:
    net = nn.Linear(64, 64, bias=False)
    totals = []
    for amp in (False, True):
        counter = SavedBytes(net)
        with counter.counting(), torch.autocast('cpu', enabled=amp):
            x = torch.rand(256, 64, requires_grad=True)
            net(x).square().sum()
        totals.append(counter.total)
    weights = 2 * 64 * 64  # a copy in bfloat16, which are no parameters
    assert totals[0] == 2 * 256 * 64 * 4
    assert totals[1] == 256 * 64 * 2 + weights + 256 * 64 * 2


@pytest.fixture
def built(tiny_config: Callable[..., Path]):
    cfg = load_config(str(tiny_config()))
    return cfg, build_model(cfg).train()


@pytest.mark.parametrize('amp', [False, True])
def test_batches_lie_on_a_line(built, amp: bool) -> None:
    kept = measure_activations(*built, amp)
    assert kept.of(4) == pytest.approx(saved_bytes(*built, 4, amp), rel=0.02)
    assert kept.per_image > 1e6


def test_single_values_in_batch_norm_leave_the_model_in_training(
    built,
) -> None:
    saved_bytes(*built, 1, amp=False)
    model = built[1]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(m.training for m in norms)
    assert not any(m._forward_pre_hooks for m in norms)


def test_checkpoints_keep_less_and_recompute_a_block(built) -> None:
    cfg, model = built
    plain = measure_activations(cfg, model, amp=False)
    less = checkpointed(cfg, model, False, plain)
    assert less.per_image < plain.per_image
    saved = plain.per_image - less.per_image
    assert less.recomputed == saved / len(model.backbone.layers)
    assert not model.backbone.with_cp
    # measured by itself, it is the same
    again = checkpointed(cfg, model, False)
    assert again.per_image == pytest.approx(less.per_image, rel=0.02)


def kept_by_scan(scan: Callable, every: int) -> list[tuple]:
    """Shapes and dtypes that a scan keeps."""
    groups, batch, length, dim, states = 2, 3, 70, 32, 8
    with FakeTensorMode():
        tokens = (groups, batch, length)
        inputs = Inputs(
            torch.empty(*tokens, dim, dtype=torch.bfloat16),
            torch.empty(*tokens, dim, dtype=torch.bfloat16),
            torch.empty(groups, dim, states),
            torch.empty(*tokens, states, dtype=torch.bfloat16),
            torch.empty(*tokens, states, dtype=torch.bfloat16),
            torch.empty(groups, dim),
            torch.empty(batch, length, dim, dtype=torch.bfloat16),
            torch.empty(groups, dim),
        )
        for tensor in inputs:
            tensor.requires_grad_()
        kept = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept.append((tuple(tensor.shape), tensor.dtype))
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks
        with hooks(pack, lambda tensor: tensor):
            scan(inputs, Options(True, (False, True), True, False), every)
    return sorted(kept, key=str)


def test_the_scan_of_gpus_keeps_what_that_of_cpus_does() -> None:
    pytest.importorskip('triton')
    from mmscope.ops.scan import cpu
    from mmscope.ops.scan.triton import config
    from mmscope.ops.scan.triton import operator as triton

    if cpu.NOT_BUILT:
        pytest.skip(cpu.NOT_BUILT)
    here = kept_by_scan(cpu._scan, CHUNK)
    assert ((2, 3, 3, 8, 32), torch.float32) in here  # states
    assert here == kept_by_scan(triton._scan, config.EVERY)


CONFIGS = Path(__file__).parents[2] / 'configs'
SCALES = [(1333, 480), (1333, 800)]


@pytest.mark.parametrize(
    ('steps', 'shape'),
    [
        ([dict(type='RandomCrop', crop_size=(64, 96))], (64, 96)),
        ([dict(type='RandomResizedCrop', scale=224)], (224, 224)),
        ([dict(type='Resize', scale=(1333, 800))], (800, 1333)),
        ([dict(type='RandomChoiceResize', scales=SCALES)], (800, 1333)),
        (
            [
                dict(type='RandomResize', scale=(2048, 512)),
                dict(type='RandomCrop', crop_size=(512, 512)),
                dict(type='RandomFlip'),
            ],
            (512, 512),
        ),
        ([dict(type='RandomFlip')], (160, 160)),
    ],
)
def test_the_shape_is_that_of_the_last_crop(steps: list, shape) -> None:
    cfg = Config(
        dict(
            model=dict(backbone=dict(img_size=160)),
            train_dataloader=dict(dataset=dict(pipeline=steps)),
        )
    )
    assert training_shape(cfg) == shape


def test_detectors_are_measured_in_mixed_precision() -> None:
    cfg = load_config(str(CONFIGS / 'demo/mambascope_det_demo.py'))
    model = build_model(cfg).train()
    model.backbone.alpha = 1.0
    full, half = (saved_bytes(cfg, model, 1, amp) for amp in (False, True))
    assert 0.5 * full < half < 0.9 * full
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(
    ('batch', 'side', 'order'), [(64, 224, 0), (16, 512, 1)]
)
def test_an_h100_took_a_little_more_than_is_counted(
    batch: int, side: int, order: int
) -> None:
    page = 'docs/benchmarks/nvidia-h100_torch2.11_2026-11-26_gpu.md'
    text = ' '.join((CONFIGS.parent / page).read_text().split())
    found = re.search(r'training (\d+) to \d+ and (\d+) to \d+', text)
    measured = int(found.groups()[order])  # MiB, of Vim-T's backbone alone
    net = VisionMambaBackbone('tiny', img_size=side, out_indices=(23,))
    sizes = []
    for number in (1, 2):
        counter = SavedBytes(net)
        with counter.counting(), torch.autocast('cpu', torch.bfloat16):
            net(torch.rand(number, 3, side, side))[0].square().mean()
        sizes.append(counter.total)
    one, two = sizes
    kept = Activations(2 * one - two, two - one).of(batch) / 2**20
    assert 0.92 * measured < kept < 0.94 * measured
    assert measured < (1 + TEMPORARY_SHARE) * kept

"""A whole block in Triton's kernels against plain torch."""

from __future__ import annotations

import torch
from triton_cases import DEVICE, MARKS, on_device

from mmscope.models.layers import ScoreMetric, VimBlock

pytestmark = MARKS
KERNELS = {
    f'mmscope::{name}'
    for name in (
        'add_rms_norm',
        'bidirectional_conv',
        'triton_scan_forward',
    )
}


def make_block(backend):
    torch.manual_seed(0)
    block = VimBlock(32, d_state=4, scan_backend=backend)
    block.mixer.reset_parameters(depth=4)
    return block.to(DEVICE)


def values_and_grads(block, x):
    x = x.detach().requires_grad_()
    update = torch.ones_like(x).requires_grad_()
    stream, out, importance = block(x, update, ScoreMetric())
    (stream + out).square().sum().backward()
    grads = [x.grad, update.grad, *(p.grad for p in block.parameters())]
    return [stream + out, importance, *grads]


def test_block_runs_in_triton():
    x, block = on_device(2, 9, 32), make_block('triton')
    with torch.profiler.profile(acc_events=True) as profile:
        actual = values_and_grads(block, x)
    called = {e.name for e in profile.events() if 'mmscope::' in e.name}
    assert called == KERNELS | {
        f'{name}_backward'
        if 'scan' not in name
        else 'mmscope::triton_scan_backward'
        for name in KERNELS
    }
    expected = values_and_grads(make_block('torch'), x)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_block_without_gradients():
    x, block = on_device(2, 9, 32), make_block('triton').eval()
    expected = block(x)[1]
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(block(x)[1], expected)


def test_autocast_stays_near_full_precision():
    x, block = on_device(2, 9, 32), make_block('triton')
    exact = values_and_grads(block, x)[0]
    block.zero_grad()
    with torch.autocast(DEVICE, torch.bfloat16):
        rounded = values_and_grads(block, x)[0]
    assert rounded.dtype == torch.float32
    assert (exact - rounded).abs().max() < 0.03 * exact.abs().max()

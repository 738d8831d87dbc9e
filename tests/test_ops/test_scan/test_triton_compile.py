"""The Triton kernels compile for a GPU, which the interpreter cannot tell.

And they compile to what they were designed for: a channel's states in the
registers of one lane, no spills in the forward pass, wide reads of B and C.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'helpers' / 'compile_triton.py'


def compile_kernels(case: str, dtype: str) -> dict[str, dict]:
    """In a process of its own, where Triton is told of an H100."""
    pytest.importorskip('triton')
    environment = {**os.environ, 'PYTHONPATH': str(SCRIPT.parents[2])}
    environment.pop('TRITON_INTERPRET', None)
    result = subprocess.run(
        [sys.executable, str(SCRIPT), case, dtype],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-5000:]
    return {entry['kernel']: entry for entry in json.loads(result.stdout)}


def check_lanes(kernel: dict, channels: int = 1) -> None:
    """Whole channels in a lane: sums over states need no other lane."""
    assert kernel['tiles'], kernel
    assert set(map(tuple, kernel['tiles'])) == {(f'{channels}, 1', '32, 1')}


def test_scan_of_vim():
    kernels = compile_kernels('chunked', 'bf16')
    assert set(kernels) == {
        'ends_kernel',
        'scan_kernel',
        'merge_kernel',
        'grad_kernel',
    }
    scan, ends = kernels['scan_kernel'], kernels['ends_kernel']
    for kernel in (scan, ends, kernels['grad_kernel']):
        check_lanes(kernel)
    assert scan['stack'] == ends['stack'] == 0
    assert scan['shared'] == ends['shared'] == ends['shuffles'] == 0
    # the importance is the one sum over channels: 5 shuffles a token
    assert scan['shuffles'] <= 5 * 4
    # 16 states of B and C in two reads each, for each of the 4 tokens
    assert scan['wide_loads'] >= 4 * 4
    assert scan['registers'] <= 168
    assert kernels['grad_kernel']['stack'] <= 64


def test_scan_without_options():
    """What Triton would not even look at with everything given."""
    kernels = compile_kernels('bare', 'bf16')
    check_lanes(kernels['scan_kernel'])
    assert kernels['scan_kernel']['shuffles'] == 0


def test_convolution_and_norm():
    kernels = compile_kernels('others', 'bf16')
    assert set(kernels) == {
        'conv_kernel',
        'conv_grad_kernel',
        'norm_kernel',
        'norm_grad_kernel',
    }
    assert all(kernel['stack'] == 0 for kernel in kernels.values())


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['bf16', 'fp16', 'fp32'])
@pytest.mark.parametrize(
    'case',
    ['unsplit', 'wide', 'warps', 'unaligned', 'odd', 'one', 'states'],
)
def test_every_variant(case, dtype):
    kernels = compile_kernels(case, dtype)
    assert {'scan_kernel', 'grad_kernel'} <= set(kernels)
    assert kernels['scan_kernel']['stack'] <= 16
    if case == 'wide':
        check_lanes(kernels['scan_kernel'], channels=2)
    elif case in ('unsplit', 'unaligned', 'odd'):
        check_lanes(kernels['scan_kernel'])


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['fp16', 'fp32'])
def test_convolution_and_norm_of_other_dtypes(dtype):
    assert compile_kernels('others', dtype)

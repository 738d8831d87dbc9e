"""Which kernels run beside a scan."""

from __future__ import annotations

import pytest
import torch

from mmscope.ops import triton_check, use_backend
from mmscope.ops.backends import layer_kernels
from mmscope.ops.scan import cpu as cpu_scan


class OnGPU:
    is_cuda, device, dtype = True, torch.device('cuda', 0), torch.float32


class DoubleOnGPU(OnGPU):
    dtype = torch.float64


@pytest.fixture(autouse=True)
def everything_is_there(monkeypatch):
    monkeypatch.setenv('MMSCOPE_SELF_CHECK', '0')
    monkeypatch.delenv('MMSCOPE_SCAN_BACKEND', raising=False)
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    monkeypatch.setattr(cpu_scan, 'NOT_BUILT', None)
    monkeypatch.setattr(triton_check, 'FOUND', True)
    monkeypatch.setattr(triton_check, 'TOO_OLD', False)


@pytest.mark.parametrize('backend', [None, 'auto'])
def test_the_fastest_that_can_run(monkeypatch, backend):
    assert layer_kernels('conv', OnGPU, backend) == 'triton'
    assert layer_kernels('conv', DoubleOnGPU, backend) == 'torch'
    assert layer_kernels('conv', torch.empty(0), backend) == 'cpu'
    assert (
        layer_kernels('conv', torch.empty(0, device='meta'), backend)
        == 'torch'
    )
    monkeypatch.setattr(triton_check, 'FOUND', False)
    monkeypatch.setattr(cpu_scan, 'NOT_BUILT', 'not built')
    assert layer_kernels('conv', OnGPU, backend) == 'torch'
    assert layer_kernels('conv', torch.empty(0), backend) == 'torch'


@pytest.mark.parametrize('name', ['torch', 'reference', 'mamba_ssm'])
def test_other_scans_take_plain_torch(monkeypatch, name):
    for x in (OnGPU, torch.empty(0)):
        assert layer_kernels('conv', x, name) == 'torch'
        with use_backend(name):
            assert layer_kernels('conv', x, None) == 'torch'
        monkeypatch.setenv('MMSCOPE_SCAN_BACKEND', name)
        assert layer_kernels('conv', x, None) == 'torch'
        monkeypatch.delenv('MMSCOPE_SCAN_BACKEND')


def test_named_kernels_never_fall_back():
    assert layer_kernels('conv', OnGPU, 'triton') == 'triton'
    with pytest.raises(RuntimeError, match="'triton' cannot run here: it nee"):
        layer_kernels('conv', torch.empty(0), 'triton')
    with pytest.raises(RuntimeError, match="'cpu' cannot run here: it scans"):
        layer_kernels('conv', OnGPU, 'cpu')

"""Why the Triton backend cannot run, said without importing Triton."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from mmscope.ops import bidirectional_scan, scan_backends, triton_check


@pytest.fixture(autouse=True)
def not_interpreted(monkeypatch):
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)


class OnGPU:
    is_cuda, device, dtype = True, torch.device('cuda', 0), torch.float32


def test_reasons(monkeypatch):
    u = torch.empty(0)
    assert 'needs CUDA tensors and u is on cpu' in triton_check.why_not(u)
    assert 'u is float64' in triton_check.why_not(u.double())
    assert triton_check.why_not(OnGPU) is None
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    assert triton_check.why_not(u) is None
    assert 'u is float64' in triton_check.why_not(u.double())
    monkeypatch.setattr(triton_check, 'FOUND', False)
    assert 'pip install triton' in triton_check.why_not(OnGPU)


@pytest.mark.parametrize(
    ('version', 'old'),
    [
        ('3.3.1', True),
        ('2.3.0', True),
        ('3.4.0', False),
        ('3.10.0+git1', False),
        ('4.0.0', False),
        ('of unknown version', False),
    ],
)
def test_old_versions(monkeypatch, version, old):
    assert triton_check._too_old(version) == old
    monkeypatch.setattr(triton_check, 'TOO_OLD', old)
    monkeypatch.setattr(triton_check, 'VERSION', version)
    reason = triton_check.why_not(OnGPU)
    assert (reason or '').startswith(f'triton {version} is too old') == old


def test_named_backend_says_why():
    u = torch.zeros(2, 1, 1, 1)
    reason = scan_backends()['triton']
    assert reason == triton_check.why_not(u)
    with pytest.raises(RuntimeError, match="'triton' cannot run here: it nee"):
        bidirectional_scan(u, u, u[:, 0], u, u, backend='triton')


def test_ops_work_without_triton():
    program = """
import sys
sys.modules['triton'] = None
import torch
from mmscope.ops import bidirectional_scan, scan_backends
u = torch.zeros(2, 1, 1, 1)
bidirectional_scan(u, u, u[:, 0], u, u)
assert scan_backends()['triton']
"""
    subprocess.run([sys.executable, '-c', program], check=True)


def test_kernels_are_imported_when_they_are_used():
    program = """
import sys
import mmscope.ops
assert not [n for n in sys.modules if n.startswith('mmscope.ops.scan.triton')]
"""
    subprocess.run([sys.executable, '-c', program], check=True)

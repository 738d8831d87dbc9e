"""The adapter to mamba_ssm's kernel: reasons, and layouts by a stand-in.

``Double`` answers as the CUDA module does, from the reference scan, and
insists on what the module insists on. It says nothing about the real kernel;
that needs a GPU and a build of mamba-ssm.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from scan_cases import (
    assert_agree,
    scan_inputs,
    with_grads,
)

from mmscope.ops import bidirectional_scan, scan_backends
from mmscope.ops.scan import mamba_ssm as mamba_ssm_scan
from mmscope.ops.scan.inputs import Inputs, Options
from mmscope.ops.scan.mamba_ssm import MODULE, scan_backward_op, scan_op
from mmscope.ops.scan.reference import reference_scan


class Double:
    """Stand-in for the extension module, on the CPU."""

    def __init__(self):
        self.dtypes = []

    def check(self, u, delta, A, B, C, D, z, delta_bias):
        batch, channels, length = u.shape
        states, groups = A.shape[1], B.shape[1]
        assert channels % groups == 0
        assert delta.shape == u.shape and A.shape == (channels, states)
        assert B.shape == C.shape == (batch, groups, states, length)
        assert {t.dtype for t in (delta, B, C)} == {u.dtype}
        for t in (u, delta, B, C):
            assert t.stride(-1) == 1 or length == 1
        for t in (A, D, delta_bias):
            assert t is None or t.dtype == torch.float32 and t.is_contiguous()
        assert z is None
        self.dtypes.append(u.dtype)

    def scan(self, u, delta, A, B, C, D, delta_bias, delta_softplus):
        """Each group of channels is a direction of the reference."""
        groups = B.shape[1]
        u, delta = (
            t.unflatten(1, (groups, -1)).transpose(0, 1).mT for t in (u, delta)
        )
        A, D, delta_bias = (
            None if t is None else t.unflatten(0, (groups, -1))
            for t in (A, D, delta_bias)
        )
        B, C = (t.transpose(0, 1).mT for t in (B, C))
        y, _ = reference_scan(
            Inputs(u, delta, A, B, C, D, None, delta_bias),
            Options(delta_softplus, (False,) * groups, False, False),
        )
        return y.mT.transpose(0, 1).flatten(1, 2)

    def fwd(self, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        self.check(u, delta, A, B, C, D, z, delta_bias)
        out = torch.empty_like(delta)
        out.copy_(self.scan(u, delta, A, B, C, D, delta_bias, delta_softplus))
        chunks = -(-u.shape[2] // 2048)
        return out, A.new_zeros(*u.shape[:2], chunks, 2 * A.shape[1])

    def bwd(
        self, u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz,
        delta_softplus, recompute_out_z,
    ):  # fmt: skip
        self.check(u, delta, A, B, C, D, z, delta_bias)
        assert dout.dtype == u.dtype and dout.is_contiguous()
        assert x.shape[-1] == 2 * A.shape[1] and x.is_contiguous()
        assert out is None and dz is None and not recompute_out_z
        given = (u, delta, A, B, C, D, delta_bias)
        leaves = [
            None if t is None else t.detach().requires_grad_() for t in given
        ]
        # inside an operator this thread's autograd is off
        run = threading.Thread(
            target=lambda: self.scan(*leaves, delta_softplus).backward(dout)
        )
        run.start()
        run.join()
        return [None if leaf is None else leaf.grad for leaf in leaves]


@pytest.fixture
def double(monkeypatch):
    module = Double()
    monkeypatch.setitem(sys.modules, MODULE, module)
    return module


def scan(reverse=(False, True), core=mamba_ssm_scan.mamba_ssm_scan, **given):
    options = [given.pop(name) for name in ('softplus', 'merge', 'importance')]
    inputs = Inputs(*(given.get(name) for name in Inputs._fields))
    return core(inputs, Options(options[0], reverse, *options[1:]))


def check(inputs, reverse=(False, True), **options):
    options = dict(softplus=True, merge=True, importance=True) | options

    def run(core, tensors):
        def call(**leaves):
            out, score = scan(reverse, core, **leaves, **options)
            return out if score is None else (out, score)

        return with_grads(call, tensors)

    exact = {name: value.double() for name, value in inputs.items()}
    assert_agree(
        run(mamba_ssm_scan.mamba_ssm_scan, inputs),
        run(reference_scan, exact),
        inputs['u'].dtype,
    )


@pytest.mark.parametrize(
    'dtype', [torch.float32, torch.bfloat16, torch.float16]
)
@pytest.mark.parametrize('length', [1, 9])
def test_layouts(double, dtype, length):
    check(scan_inputs(2, length, dtype=dtype))
    # rounded outputs would round the importance
    assert set(double.dtypes) == {torch.float32}
    check(scan_inputs(2, length, dtype=dtype), importance=False)
    assert double.dtypes[-1] == dtype


@pytest.mark.parametrize('merge', [True, False])
@pytest.mark.parametrize(
    'without', [(), ('z',), ('D',), ('delta_bias',), ('z', 'D', 'delta_bias')]
)
def test_options(double, without, merge):
    check(scan_inputs(dtype=torch.float32, without=without), merge=merge)


@pytest.mark.parametrize(
    'reverse', [(True,), (False,), (True, False), (False, False, True)]
)
def test_any_directions(double, reverse):
    inputs = scan_inputs(dtype=torch.float32)
    pick = [min(g, 1) for g in range(len(reverse))]
    for name in inputs.keys() - {'z'}:
        inputs[name] = inputs[name][pick]
    check(inputs, reverse)


def test_plain_step_sizes(double):
    inputs = scan_inputs(dtype=torch.float32)
    inputs['delta'] = inputs['delta'].abs() / 4
    inputs['delta_bias'] = inputs['delta_bias'].abs() / 4
    check(inputs, softplus=False)


def test_mixed_dtypes_are_cast(double):
    inputs = scan_inputs(dtype=torch.float32)
    inputs['delta'] = inputs['delta'].bfloat16()
    inputs['A'] = inputs['A'].double()
    options = dict(softplus=True, merge=True, importance=False)
    leaves = {k: v.requires_grad_() for k, v in inputs.items()}
    scan(**leaves, **options)[0].sum().backward()
    assert leaves['delta'].grad.dtype == torch.bfloat16
    assert leaves['A'].grad.dtype == torch.float64


def test_one_launch_for_both_directions(double):
    check(scan_inputs(dtype=torch.float32))
    assert len(double.dtypes) == 2  # forward and backward


def test_empty_batch_launches_nothing(double):
    inputs = scan_inputs(0, dtype=torch.float32)
    leaves = {k: v.requires_grad_() for k, v in inputs.items()}
    out, score = scan(**leaves, softplus=True, merge=True, importance=True)
    out.sum().backward()
    assert out.shape == (0, 9, 5) and score.shape == (0, 9)
    assert not leaves['A'].grad.any() and not double.dtypes


def test_opcheck(double):
    u, delta = (torch.randn(1, 4, 3) for _ in range(2))
    A, (B, C) = -torch.rand(4, 2), torch.randn(2, 1, 2, 2, 3)
    for D, bias in ((torch.randn(4), torch.randn(4)), (None, None)):
        tensors = u, delta, A, B, C, D, bias
        for t in tensors:
            if t is not None:
                t.requires_grad_()
        torch.library.opcheck(scan_op, (*tensors, True))
        plain = [None if t is None else t.detach() for t in tensors]
        out, states = scan_op(*plain, True)
        torch.library.opcheck(scan_backward_op, (out, states, *plain, True))


def test_autocast_changes_nothing(double):
    inputs = scan_inputs(dtype=torch.bfloat16)
    options = dict(softplus=True, merge=True, importance=True)
    expected = scan(**inputs, **options)
    with torch.autocast('cpu', torch.bfloat16):
        actual = scan(**inputs, **options)
    for value, exact in zip(actual, expected, strict=True):
        assert torch.equal(value, exact) and value.dtype == exact.dtype


def test_second_derivative_is_refused(double):
    inputs = scan_inputs(dtype=torch.float32)
    inputs['u'].requires_grad_()
    options = dict(softplus=True, merge=True, importance=False)
    loss = scan(**inputs, **options)[0].square().sum()
    (grad,) = torch.autograd.grad(loss, inputs['u'], create_graph=True)
    with pytest.raises(RuntimeError, match='no autograd formula'):
        grad.sum().backward()


def test_compiles_without_a_graph_break(double):
    inputs = scan_inputs(dtype=torch.float32)
    options = dict(softplus=True, merge=True, importance=True)
    compiled = torch.compile(scan, backend='aot_eager', fullgraph=True)
    for actual, expected in zip(
        compiled(**inputs, **options), scan(**inputs, **options), strict=True
    ):
        torch.testing.assert_close(actual, expected)


@pytest.fixture
def importable(monkeypatch):
    """Choose what importing the module, which is installed, does."""
    mamba_ssm_scan.import_error.cache_clear()
    monkeypatch.setattr(mamba_ssm_scan, 'INSTALLED', True)

    def choose(error=None):
        def load(name):
            assert name == MODULE
            if error:
                raise error

        monkeypatch.setattr(
            mamba_ssm_scan,
            'importlib',
            SimpleNamespace(import_module=load),
        )

    yield choose
    mamba_ssm_scan.import_error.cache_clear()


class OnGPU:
    is_cuda, device, dtype = True, torch.device('cuda', 0), torch.float32


def test_reason_not_installed(monkeypatch):
    monkeypatch.setattr(mamba_ssm_scan, 'INSTALLED', False)
    reason = mamba_ssm_scan.why_not(OnGPU)
    assert 'selective_scan_cuda of mamba-ssm is not installed' in reason
    assert 'MAMBA_KEEP_CUDA_BUILD=TRUE pip install' in reason
    u = torch.zeros(2, 1, 1, 1)
    with pytest.raises(RuntimeError, match='selective_scan_cuda of mamba-ssm'):
        bidirectional_scan(u, u, u[:, 0], u, u, backend='mamba_ssm')


def test_reason_built_for_another_torch(importable):
    importable(ImportError('undefined symbol: _ZN3c10'))
    reason = mamba_ssm_scan.why_not(OnGPU)
    assert 'undefined symbol: _ZN3c10' in reason and 'pip install' in reason


def test_reason_wrong_tensor(importable):
    importable()
    assert mamba_ssm_scan.why_not(OnGPU) is None
    u = torch.empty(0)
    assert 'u is on cpu' in mamba_ssm_scan.why_not(u)
    assert 'u is float64' in mamba_ssm_scan.why_not(u.double())


def test_listed():
    assert scan_backends()['mamba_ssm']


def test_too_many_states_are_refused(double):
    inputs = scan_inputs(1, 1, 1, 257, dtype=torch.float32)
    with pytest.raises(RuntimeError, match='up to 256 states, got 257'):
        scan(**inputs, softplus=True, merge=True, importance=False)


def test_nothing_of_mamba_ssm_is_imported_before_it_is_used():
    program = f"""
import sys
import mmscope.ops
assert not {{'{MODULE}', 'mamba_ssm'}} & set(sys.modules)
"""
    subprocess.run([sys.executable, '-c', program], check=True)

"""RMSNorm against its formula, in float64."""

from __future__ import annotations

import pytest
import torch
from layer_cases import (
    assert_close_to_exact,
    assert_same_bits,
    needs_build,
    normal,
    values_and_grads,
)
from scan_cases import TOLERANCE, weight_like
from torch import Tensor

from mmscope.ops import add_rms_norm, rms_norm
from mmscope.ops.norm.entry import plain_norm
from mmscope.ops.scan import cpu as cpu_scan

EPS = 1e-5
SHAPES = [(2, 9, 5), (1, 1, 3), (3, 33, 16), (1, 70, 50), (65, 192), (7,)]


def exact_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight


def cpp_norm(x: Tensor, weight: Tensor) -> Tensor:
    return rms_norm(x, weight, EPS, backend='cpu')


def norm_inputs(shape, dtype=torch.float32, wide=None):
    """Tokens of ``wide``, default at least float32; the weight of dtype."""
    wide = wide or torch.promote_types(dtype, torch.float32)
    return {
        'x': normal(*shape, dtype=wide, seed=0),
        'weight': normal(shape[-1], dtype=dtype, seed=1),
    }


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.usefixtures('isa')
def test_every_instruction_set(dtype, shape):
    inputs = norm_inputs(shape, dtype)
    assert_close_to_exact(cpp_norm, exact_norm, inputs, dtype)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_plain_torch(dtype):
    assert_close_to_exact(
        lambda x, weight: plain_norm(x, weight, EPS),
        exact_norm,
        norm_inputs((2, 9, 5), dtype),
        dtype,
    )


@needs_build
def test_narrow_tokens():
    inputs = norm_inputs((2, 9, 20), torch.bfloat16, torch.bfloat16)
    assert_close_to_exact(cpp_norm, exact_norm, inputs, torch.bfloat16)


@needs_build
def test_eps_bounds_small_tokens():
    inputs = norm_inputs((4, 20))
    inputs['x'] *= 1e-3
    inputs['x'][0] = 0
    assert_close_to_exact(cpp_norm, exact_norm, inputs, torch.float32)


@needs_build
def test_non_finite_tokens_stay_alone(isa):
    inputs = norm_inputs((3, 40))
    inputs['x'][1, 2] = torch.nan
    out = cpp_norm(**inputs)
    assert out[1].isnan().all()
    assert out[[0, 2]].isfinite().all()


@needs_build
def test_any_strides():
    inputs = norm_inputs((3, 40, 20))
    runs = []
    for x in (
        inputs['x'],
        inputs['x'].mT.contiguous().mT,
        torch.cat([inputs['x'], inputs['x']], dim=-1)[..., :20],
    ):
        runs.append(values_and_grads(cpp_norm, {**inputs, 'x': x}))
    assert_same_bits(runs)


@needs_build
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_same_bits_for_any_number_of_threads(threads, dtype):
    inputs, runs = norm_inputs((3, 700, 50), dtype), []
    for count in (1, 2, 3, 5, 2):
        threads(count)
        runs.append(values_and_grads(cpp_norm, inputs))
    assert_same_bits(runs)


@needs_build
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_opcheck(dtype):
    x, weight = norm_inputs((2, 9, 20), dtype).values()
    leaves = [v.detach().requires_grad_() for v in (x, weight)]
    op = torch.ops.mmscope.rms_norm_forward.default
    torch.library.opcheck(op, (*leaves, EPS))
    out, scale = op(x, weight, EPS)
    torch.library.opcheck(
        torch.ops.mmscope.rms_norm_backward.default,
        (weight_like(out), x, scale, weight),
    )


@needs_build
def test_second_derivative_is_refused():
    x, weight = norm_inputs((2, 9)).values()
    x.requires_grad_()
    loss = cpp_norm(x, weight).square().sum()
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match='rms_norm_backward is not implem'):
        grad.sum().backward()


def test_without_the_build(monkeypatch):
    monkeypatch.setattr(cpu_scan, 'NOT_BUILT', 'not built: no compiler')
    monkeypatch.delenv('MMSCOPE_SCAN_BACKEND', raising=False)
    x, weight = norm_inputs((2, 9)).values()
    expected = plain_norm(x, weight, EPS)
    assert torch.equal(rms_norm(x, weight, EPS), expected)


@pytest.mark.parametrize('backend', ['reference', 'torch'])
def test_other_scan_backends_take_torchs(backend):
    x, weight = norm_inputs((5, 192)).values()
    expected = plain_norm(x, weight, EPS)
    assert torch.equal(rms_norm(x, weight, EPS, backend), expected)


def test_bad_shapes():
    with pytest.raises(ValueError, match=r'weight \(C,\), got \(2, 9\) and'):
        rms_norm(torch.zeros(2, 9), torch.zeros(8), EPS)


@pytest.mark.parametrize('backend', ['auto', 'torch'])
@pytest.mark.parametrize('name', ['x', 'weight'])
@pytest.mark.parametrize('dtype', [torch.int64, torch.complex64])
def test_only_real_floating_point(backend, name, dtype):
    inputs = norm_inputs((2, 9))
    inputs[name] = inputs[name].to(dtype)
    with pytest.raises(TypeError, match=f'{name} must be a .* got {dtype}'):
        rms_norm(**inputs, eps=EPS, backend=backend)


@pytest.mark.parametrize('backend', ['auto', 'torch'])
def test_devices_must_agree(backend):
    inputs = norm_inputs((2, 9))
    inputs['weight'] = inputs['weight'].to('meta')
    with pytest.raises(ValueError, match='weight is on meta, but x on cpu'):
        rms_norm(**inputs, eps=EPS, backend=backend)
    inputs['x'] = inputs['x'].to('meta')
    assert rms_norm(**inputs, eps=EPS).is_meta


@pytest.mark.parametrize('backend', ['torch', None])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_added_before_the_norm(backend, dtype):
    """An update in half precision is added in the stream's."""
    stream, weight = torch.randn(2, 3, 48, dtype=dtype), torch.randn(48)
    weight, update = weight.to(dtype), torch.randn(2, 3, 48).bfloat16()
    normed, total = add_rms_norm(stream, update, weight, 1e-5, backend)
    assert torch.equal(total, stream + update.to(dtype))
    assert torch.equal(normed, rms_norm(total, weight, 1e-5, backend))
    normed, total = add_rms_norm(stream, None, weight, 1e-5, backend)
    assert total is stream
    assert torch.equal(normed, rms_norm(stream, weight, 1e-5, backend))


def test_what_is_added_has_the_shape_of_the_stream():
    stream, weight = torch.randn(2, 3, 48), torch.ones(48)
    with pytest.raises(ValueError, match=r'update must be \(2, 3, 48\)'):
        add_rms_norm(stream, stream[:1], weight, 1e-5)

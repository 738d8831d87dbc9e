"""Fused residual addition and RMSNorm against float64 torch."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from scan_cases import TOLERANCE
from triton_cases import DEVICE, MARKS, on_device

from mmscope import ops
from mmscope.ops import rms_norm
from mmscope.ops.norm.triton import norm_backward_op, norm_op

pytestmark = MARKS
HALF = [torch.bfloat16, torch.float16]
add_rms_norm = partial(ops.add_rms_norm, eps=1e-5, backend='triton')


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def plain(residual, update, weight):
    total = residual if update is None else residual + update
    normed = F.rms_norm(total, total.shape[-1:], weight, 1e-5)
    return normed, total


def outputs_and_grads(norm, tensors, weights):
    leaves = [
        None if t is None else t.detach().clone().requires_grad_()
        for t in tensors
    ]
    outputs = norm(*leaves)
    torch.autograd.backward(outputs, weights)
    grads = [leaf.grad for leaf in leaves if leaf is not None]
    return [*(out.detach() for out in outputs), *grads]


def check(tensors, tolerance=1e-5, autocast=None):
    residual = tensors[0]
    exact = [None if t is None else t.double() for t in tensors]
    weights = [on_device(*residual.shape) for _ in range(2)]
    dtype = autocast or tensors[2].dtype
    expected = outputs_and_grads(plain, exact, [w.double() for w in weights])
    with torch.autocast(DEVICE, autocast, enabled=autocast is not None):
        actual = outputs_and_grads(
            add_rms_norm, tensors, [weights[0].to(dtype), weights[1]]
        )
    assert actual[0].dtype == dtype and actual[1].dtype == torch.float32
    given = [t for t in tensors if t is not None]
    for grad, t in zip(actual[2:], given, strict=True):
        assert grad.dtype == t.dtype
    for got, want in zip(actual, expected, strict=True):
        limit = tolerance * want.abs().max()
        assert (got.double() - want).abs().max() <= limit


@pytest.mark.parametrize('width', [1, 48, 192, 300])
@pytest.mark.parametrize('rows', [(1,), (2, 7)])
def test_matches_torch(rows, width):
    check([on_device(*rows, width), on_device(*rows, width), on_device(width)])


@pytest.mark.parametrize('dtype', HALF)
def test_half_update_and_output(dtype):
    tensors = [on_device(3, 5, 48) for _ in range(2)]
    tensors[1] = tensors[1].to(dtype)
    check([*tensors, on_device(48)], 8e-3, autocast=dtype)
    check([*tensors, on_device(48, dtype=dtype)], 8e-3)


def test_without_update():
    residual, weight = on_device(2, 3, 48), on_device(48)
    normed, total = add_rms_norm(residual, None, weight)
    assert total is residual
    check([residual, None, weight])


@pytest.mark.parametrize('dtype', [torch.float32, *HALF])
@pytest.mark.parametrize('kind', [torch.float32, torch.bfloat16])
def test_rms_norm_takes_it(dtype, kind):
    x = on_device(3, 5, 48, dtype=dtype)
    weight = on_device(48, dtype=kind)
    grad = on_device(3, 5, 48, dtype=kind)

    def values(norm, tensors, grad):
        x, weight = (t.detach().requires_grad_() for t in tensors)
        out = norm(x, weight)
        out.backward(grad)
        return out.detach(), x.grad, weight.grad

    actual = values(
        lambda x, w: rms_norm(x, w, 1e-5, backend='triton'), (x, weight), grad
    )
    expected = values(
        lambda x, w: F.rms_norm(x, (48,), w, 1e-5),
        (x.double(), weight.double()),
        grad.double(),
    )
    kinds = (kind, dtype, kind)
    for got, want, own in zip(actual, expected, kinds, strict=True):
        assert got.dtype == own
        limit = TOLERANCE[own] * want.abs().max()
        assert (got.double() - want).abs().max() <= limit


def test_more_rows_than_programs(monkeypatch):
    monkeypatch.setattr('mmscope.ops.norm.triton.PARTIALS', 2)
    check([on_device(23, 1000), on_device(23, 1000), on_device(1000)])


def test_strided_and_empty():
    residual, update = on_device(4, 48, 3).mT, on_device(3, 4, 48)
    weight = on_device(48)
    check([residual, update.transpose(0, 1), weight])
    normed, total = add_rms_norm(residual[:0], residual[:0], weight)
    assert normed.shape == total.shape == (0, 3, 48)


def test_the_stream_is_not_changed():
    residual, update = on_device(2, 3, 48), on_device(2, 3, 48)
    before = residual.clone()
    add_rms_norm(residual, update, on_device(48))
    assert torch.equal(residual, before)


def test_wrong_input():
    residual, weight = on_device(2, 3, 48), on_device(48)
    with pytest.raises(ValueError, match=r'must be \(2, 3, 48\)'):
        add_rms_norm(residual, residual[:1], weight)


def test_opcheck():
    residual, update = (on_device(5, 8).requires_grad_() for _ in range(2))
    weight = on_device(8).requires_grad_()
    for given in (update, None):
        arguments = residual, given, weight, 1e-5, torch.bfloat16
        torch.library.opcheck(norm_op, arguments)
    x, scale = residual.detach(), torch.rand(5, device=DEVICE)
    torch.library.opcheck(
        norm_backward_op, (x, scale, weight.detach(), x.bfloat16(), x)
    )


def test_compiles_without_a_graph_break():
    tensors = [on_device(2, 5, 48), on_device(2, 5, 48), on_device(48)]
    weights = [on_device(2, 5, 48) for _ in range(2)]
    compiled = torch.compile(add_rms_norm, backend='aot_eager', fullgraph=True)
    for got, want in zip(
        outputs_and_grads(compiled, tensors, weights),
        outputs_and_grads(add_rms_norm, tensors, weights),
        strict=True,
    ):
        assert torch.equal(got, want)

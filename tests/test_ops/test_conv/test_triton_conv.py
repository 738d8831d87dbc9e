"""Causal convolution of both directions against float64 torch."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from triton_cases import MARKS, on_device

from mmscope import ops
from mmscope.ops.conv import triton as triton_conv
from mmscope.ops.conv.triton import BLOCK_T, conv_backward_op, conv_op

pytestmark = MARKS
SPAN = 4  # a program takes one token after the other
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}


@pytest.fixture(autouse=True)
def short_spans(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(triton_conv, 'SPAN', SPAN)


def plain(x, weight, bias):
    """torch's convolution, causal by padding; the second on flipped tokens."""
    outputs, (dim, taps) = [], weight.shape[1:]
    for g in range(2):
        tokens = (x.flip(1) if g else x).mT
        out = F.conv1d(
            F.pad(tokens, (taps - 1, 0)), weight[g][:, None], bias[g],
            groups=dim,
        )  # fmt: skip
        out = F.silu(out).mT
        outputs.append(out.flip(1) if g else out)
    return torch.stack(outputs)


def inputs_of(batch=2, length=9, dim=5, taps=4, dtype=torch.float32):
    return [
        on_device(batch, length, dim, dtype=dtype),
        on_device(2, dim, taps, dtype=dtype),
        on_device(2, dim, dtype=dtype),
    ]


bidirectional_conv = partial(ops.bidirectional_conv, backend='triton')


def output_and_grads(conv, tensors, weight):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    out = conv(*leaves)
    out.backward(weight)
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def check(tensors):
    dtype = tensors[0].dtype
    weight = on_device(2, *tensors[0].shape, dtype=dtype)
    expected = output_and_grads(
        plain, [t.double() for t in tensors], weight.double()
    )
    actual = output_and_grads(bidirectional_conv, tensors, weight)
    for got, want, t in zip(
        actual, expected, [tensors[0], *tensors], strict=True
    ):
        assert got.dtype == t.dtype
        limit = TOLERANCE[dtype] * want.abs().max()
        assert (got.double() - want).abs().max() <= limit


@pytest.mark.parametrize(
    ('dtype', 'length'),
    [(dtype, 2 * BLOCK_T + 3) for dtype in TOLERANCE]
    + [(torch.float32, n) for n in (1, SPAN, SPAN + 1, BLOCK_T - 1, BLOCK_T)],
)
def test_matches_torch(dtype, length):
    check(inputs_of(length=length, dtype=dtype))


@pytest.mark.parametrize('dim', [1, 64, 70, 128])
def test_channel_blocks(dim):
    check(inputs_of(dim=dim))


@pytest.mark.parametrize('taps', [1, 2, 8])
def test_taps(taps):
    check(inputs_of(length=BLOCK_T + 1, taps=taps))


def test_matches_the_operator_in_plain_torch():
    inputs = inputs_of()
    torch.testing.assert_close(
        bidirectional_conv(*inputs),
        ops.bidirectional_conv(*inputs, backend='torch'),
    )


def test_half_of_a_row_is_read_in_place():
    x, weight, bias = inputs_of()
    wide = torch.cat([x, -x], dim=-1).requires_grad_()
    out = bidirectional_conv(wide.chunk(2, dim=-1)[1], weight, bias)
    assert torch.equal(out, bidirectional_conv(-x, weight, bias))
    out.sum().backward()
    assert not wide.grad[..., :5].any() and wide.grad[..., 5:].all()
    thin = x.mT.contiguous().mT
    assert torch.equal(
        bidirectional_conv(thin, weight, bias),
        bidirectional_conv(x, weight, bias),
    )


def test_images_do_not_see_each_other():
    x, weight, bias = inputs_of(3)
    out = bidirectional_conv(x, weight, bias)
    alone = bidirectional_conv(x[1:2], weight, bias)
    assert torch.equal(out[:, 1:2], alone)


def test_empty_batch():
    x, weight, bias = (t.requires_grad_() for t in inputs_of(0))
    out = bidirectional_conv(x, weight, bias)
    out.sum().backward()
    assert out.shape == (2, 0, 9, 5) and not weight.grad.any()


def test_too_many_taps():
    x, weight, bias = inputs_of()
    with pytest.raises(ValueError, match='at most 8 taps'):
        bidirectional_conv(x, weight.repeat(1, 1, 3), bias)


def test_opcheck():
    tensors = [t.requires_grad_() for t in inputs_of(1, 3, 2)]
    torch.library.opcheck(conv_op, tuple(tensors))
    tensors = [t.detach() for t in tensors]
    grad = on_device(2, 1, 3, 2)
    torch.library.opcheck(conv_backward_op, (grad, *tensors))


def test_compiles_without_a_graph_break():
    tensors, weight = inputs_of(), on_device(2, 2, 9, 5)
    compiled = torch.compile(
        bidirectional_conv, backend='aot_eager', fullgraph=True
    )
    for got, want in zip(
        output_and_grads(compiled, tensors, weight),
        output_and_grads(bidirectional_conv, tensors, weight),
        strict=True,
    ):
        assert torch.equal(got, want)

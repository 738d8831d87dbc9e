"""Causal depthwise convolution + SiLU for both directions, token-major.

The forward direction looks at rows back, the backward direction at rows
ahead, so one neighbourhood of rows serves both: x is read from memory once,
nothing is transposed for ``conv1d`` and nothing is flipped.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..forward_mode import refuse
from ..scan.triton.config import cdiv, next_power_of_2
from ..scan.triton.launch import dense_rows, on_device
from ..scan.triton.tokens import sigmoid
from ..triton_check import interpreted

BLOCK_T = 16  # tokens of a backward program, each of which leaves a partial
SPAN = 16  # tokens of a forward program, which reads TAPS - 1 more each side
MAX_TAPS = 8


@triton.jit
def place(length, dim, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr):
    """Image, tokens [T, 1] and channels [D] of this program."""
    per_image = tl.cdiv(length, BLOCK_T)
    b = (tl.program_id(0) // per_image).to(tl.int64)
    t = tl.program_id(0) % per_image * BLOCK_T + tl.arange(0, BLOCK_T)
    return b, t[:, None], tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)


@triton.jit
def tile(rows, stride, t, channels, length, dim):
    """Rows t of (L, D), zero outside of it, [T, D] in float32."""
    mask = (t >= 0) & (t < length) & (channels < dim)[None, :]
    at = rows + t.to(tl.int64) * stride + channels[None, :]
    return tl.load(at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def window(x, x_strides, b, t, channels, length, dim, TAPS: tl.constexpr):
    """The tiles from TAPS - 1 rows back to TAPS - 1 rows ahead."""
    tiles = ()
    for i in tl.static_range(2 * TAPS - 1):
        rows = x + b * x_strides[0]
        near = tile(
            rows, x_strides[1], t + (i - TAPS + 1), channels, length, dim
        )
        tiles = tiles + (near,)
    return tiles


@triton.jit
def taps_of(weight, bias, g, channels, dim, TAPS: tl.constexpr):
    """Taps [1, D] of direction g from (2, D, TAPS), last the bias's."""
    taps, inside = (), channels < dim
    for k in tl.static_range(TAPS):
        at = weight + (g * dim + channels) * TAPS + k
        tap = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        taps = taps + (tap[None, :],)
    shift = tl.load(bias + g * dim + channels, mask=inside, other=0.0)
    return taps + (shift.to(tl.float32)[None, :],)


@triton.jit
def convolve(
    tiles, taps, centre: tl.constexpr, AHEAD: tl.constexpr, TAPS: tl.constexpr
):
    """Sum of the taps over tiles back from ``centre``, or ahead of it."""
    out = tiles[centre] * taps[TAPS - 1] + taps[TAPS]
    for k in tl.static_range(TAPS - 1):
        if AHEAD:
            out += tiles[centre + TAPS - 1 - k] * taps[k]
        else:
            out += tiles[centre - TAPS + 1 + k] * taps[k]
    return out


@triton.jit(do_not_specialize=['batch', 'length'])
def conv_kernel(
    x, x_strides, weight, bias, out, batch, length, dim,
    TAPS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
    FAST: tl.constexpr,
):  # fmt: skip
    """Both directions of some tokens, one after the other.

    The rows around a token stay in registers, so each is read once.

    Args:
        x: (B, L, D) with strides of (B, L).
        out: (2, B, L, D), contiguous, filled.
    """
    per_image = tl.cdiv(length, BLOCK_T)
    b = (tl.program_id(0) // per_image).to(tl.int64)
    first = tl.program_id(0) % per_image * BLOCK_T + tl.arange(0, 1)[:, None]
    channels = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    rows, stride = x + b * x_strides[0], x_strides[1]
    taps = (
        taps_of(weight, bias, 0, channels, dim, TAPS),
        taps_of(weight, bias, 1, channels, dim, TAPS),
    )
    # all reads before the first write, behind which none could start
    read = ()
    for i in tl.static_range(BLOCK_T + 2 * TAPS - 2):
        t = first + (i - TAPS + 1)
        read = read + (tile(rows, stride, t, channels, length, dim),)
    for i in tl.static_range(BLOCK_T):
        t = first + i
        mask = (t < length) & (channels < dim)[None, :]
        for g in tl.static_range(2):
            y = convolve(read, taps[g], i + TAPS - 1, g, TAPS)
            y *= sigmoid(y, FAST)
            to = out + ((g * batch + b) * length + t) * dim + channels[None, :]
            tl.store(to, y.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=['batch', 'length'])
def conv_grad_kernel(
    x, x_strides, weight, bias, grad, dx, dweight, dbias, batch, length, dim,
    TAPS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradients of one tile.

    A row of x went into TAPS rows of either direction. What they were before
    SiLU is computed again from the same neighbourhood of x, TAPS times over:
    arithmetic instead of a second pass through memory.

    Args:
        grad: Gradient of out, (2, B, L, D), contiguous.
        dx: (B, L, D), contiguous, filled.
        dweight: (tiles of tokens, 2, D, TAPS), filled.
        dbias: (tiles of tokens, 2, D), filled.
    """
    b, t, channels = place(length, dim, BLOCK_T, BLOCK_D)
    tiles = window(x, x_strides, b, t, channels, length, dim, TAPS)
    inside = channels < dim
    total = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
    for g in tl.static_range(2):
        taps = taps_of(weight, bias, g, channels, dim, TAPS)
        rows = grad + (g * batch + b) * length * dim
        partial = tl.program_id(0).to(tl.int64) * 2 + g
        for j in tl.static_range(TAPS):
            # the row that saw this one through tap TAPS - 1 - j
            near = t - j if g else t + j
            y = convolve(
                tiles, taps, TAPS - 1 - j if g else TAPS - 1 + j, g, TAPS
            )
            sigmoid = tl.sigmoid(y)
            dy = tile(rows, dim, near, channels, length, dim)
            dy *= sigmoid * (1 + y * (1 - sigmoid))
            total += dy * taps[TAPS - 1 - j]
            if j == 0:
                to = partial * dim + channels
                tl.store(dbias + to, tl.sum(dy, axis=0), mask=inside)
                for k in tl.static_range(TAPS):
                    seen = tiles[2 * TAPS - 2 - k if g else k]
                    value = tl.sum(dy * seen, axis=0)
                    tl.store(dweight + to * TAPS + k, value, mask=inside)
    mask = (t < length) & inside[None, :]
    to = dx + (b * length + t) * dim + channels[None, :]
    tl.store(to, total.to(dx.dtype.element_ty), mask=mask)


class Span(NamedTuple):
    """What a program of the forward pass owns.

    Args:
        tokens: One after the other.
        channels: Side by side; a warp has two or four for each lane.
    """

    tokens: int
    channels: int


def static_span(dim: int) -> Span:
    """A good guess from the number of channels."""
    if dim % 128 == 0:
        return Span(SPAN, 128)
    return Span(SPAN, min(64, next_power_of_2(dim)))


def run_forward(x: Tensor, weight: Tensor, bias: Tensor, span: Span) -> Tensor:
    """Launch the forward pass; returns (2, B, L, D)."""
    out = x.new_empty(2, *x.shape)
    settings = dict(num_warps=1, FAST=not interpreted())
    _launch(conv_kernel, span, settings, x, weight, bias, out)
    return out


def _launch(
    kernel: Any,
    span: Span,
    settings: dict[str, Any],
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *rest: Tensor,
) -> None:
    batch, length, dim = x.shape
    x = dense_rows(x)
    tokens, block = span
    grid = batch * cdiv(length, tokens), cdiv(dim, block)
    with on_device(x):
        kernel[grid](
            x,
            x.stride()[:2],
            weight.contiguous(),
            bias.contiguous(),
            *rest,
            batch,
            length,
            dim,
            TAPS=weight.shape[-1],
            BLOCK_T=tokens,
            BLOCK_D=block,
            **settings,
        )


@torch.library.custom_op('mmscope::bidirectional_conv', mutates_args=())
def conv_op(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See :func:`triton_conv`."""
    refuse('bidirectional_conv')
    if x.numel() == 0:
        return x.new_empty(2, *x.shape)
    return run_forward(x, weight, bias, static_span(x.shape[-1]))


@conv_op.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(2, *x.shape)


@torch.library.custom_op(
    'mmscope::bidirectional_conv_backward', mutates_args=()
)
def conv_backward_op(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    if x.numel() == 0:
        return x.new_empty(x.shape), *map(torch.zeros_like, (weight, bias))
    batch, length, dim = x.shape
    tiles = batch * cdiv(length, BLOCK_T)
    dx = x.new_empty(x.shape)
    dweight = x.new_empty(tiles, *weight.shape, dtype=torch.float32)
    dbias = x.new_empty(tiles, *bias.shape, dtype=torch.float32)
    span = Span(BLOCK_T, min(64, next_power_of_2(dim)))
    _launch(
        conv_grad_kernel, span, dict(num_warps=4), x, weight, bias,
        grad.contiguous(), dx, dweight, dbias,
    )  # fmt: skip
    return dx, dweight.sum(0).to(weight.dtype), dbias.sum(0).to(bias.dtype)


@conv_backward_op.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in (x, weight, bias))


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return conv_backward_op(grad, *ctx.saved_tensors)


conv_op.register_autograd(_backward, setup_context=_setup_context)


def triton_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See :func:`mmscope.ops.bidirectional_conv`; computed in float32.

    Rows of ``x`` are read in place if its channels are dense.
    """
    if (taps := weight.shape[-1]) > MAX_TAPS:
        raise ValueError(
            f"at most {MAX_TAPS} taps fit, got {taps}; choose backend='torch'"
        )
    return conv_op(x, weight, bias)

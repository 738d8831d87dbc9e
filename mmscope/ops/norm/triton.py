"""Residual addition and RMSNorm in one pass over the tokens.

Vim's residual stream is float32; a block adds its output to it and the next
block normalises the sum. Apart, that reads the stream twice and writes an
extra copy; here a token's channels stay in registers between the two.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..forward_mode import refuse
from ..scan.triton.config import cdiv, next_power_of_2
from ..scan.triton.launch import on_device

# programs of the backward pass, each leaving one partial gradient of weight
PARTIALS = 528


@triton.jit
def norm_kernel(
    residual, update, weight, normed, total, scale, rows, width, eps,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """``BLOCK_R`` tokens a program, whole rows, so one reduction is enough.

    Args:
        residual, update, normed, total: (rows, width), dense; update may be
            None, and total then is.
        scale: (rows,), filled: one over the root mean square.
    """
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.arange(0, BLOCK_C)
    mask = (row < rows)[:, None] & (column < width)[None, :]
    at = row.to(tl.int64)[:, None] * width + column[None, :]
    x = tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    if update is not None:
        x += tl.load(update + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(total + at, x, mask=mask)
    one_over = 1 / tl.sqrt(tl.sum(x * x, axis=1) / width + eps)
    tl.store(scale + row, one_over, mask=row < rows)
    w = tl.load(weight + column, mask=column < width, other=0.0)
    y = x * one_over[:, None] * w.to(tl.float32)[None, :]
    tl.store(normed + at, y.to(normed.dtype.element_ty), mask=mask)


@triton.jit
def norm_grad_kernel(
    x, scale, weight, grad_normed, grad_total, grad_x, grad_weight,
    rows, width, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients; a program takes every n-th block of tokens.

    Args:
        x: What was normalised, (rows, width), as the gradients.
        grad_weight: (programs, width), filled.
    """
    column = tl.arange(0, BLOCK_C)
    w = tl.load(weight + column, mask=column < width, other=0.0)
    w = w.to(tl.float32)
    partial = tl.zeros((BLOCK_C,), tl.float32)
    step = tl.num_programs(0) * BLOCK_R
    for first in range(tl.program_id(0) * BLOCK_R, rows, step):
        row = first + tl.arange(0, BLOCK_R)
        mask = (row < rows)[:, None] & (column < width)[None, :]
        at = row.to(tl.int64)[:, None] * width + column[None, :]
        one_over = tl.load(scale + row, mask=row < rows, other=0.0)[:, None]
        unit = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) * one_over
        dy = tl.load(grad_normed + at, mask=mask, other=0.0).to(tl.float32)
        partial += tl.sum(dy * unit, axis=0)
        dy *= w[None, :]
        along = tl.sum(dy * unit, axis=1)[:, None] / width
        dx = (dy - unit * along) * one_over
        if grad_total is not None:
            dx += tl.load(grad_total + at, mask=mask, other=0.0)
        tl.store(grad_x + at, dx.to(grad_x.dtype.element_ty), mask=mask)
    to = grad_weight + tl.program_id(0) * width + column
    tl.store(to, partial, mask=column < width)


def _blocks(width: int) -> dict[str, int]:
    """Tiles of some 2048 elements, 16 a lane."""
    block = next_power_of_2(width)
    tokens = max(1, 2048 // block)
    warps = min(16, max(1, tokens * block // 512))
    return dict(BLOCK_R=tokens, BLOCK_C=block, num_warps=warps)


@torch.library.custom_op('mmscope::add_rms_norm', mutates_args=())
def norm_op(
    residual: Tensor,
    update: Tensor | None,
    weight: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`mmscope.ops.add_rms_norm`; the third is for backward.

    Without update any residual up to float32 will do.
    """
    refuse('add_rms_norm')
    normed, total, scale = _empty(residual, update, weight, eps, dtype)
    if residual.numel() == 0:
        return normed, total, scale
    width, settings = residual.shape[-1], _blocks(residual.shape[-1])
    with on_device(residual):
        norm_kernel[(cdiv(scale.numel(), settings['BLOCK_R']),)](
            residual.contiguous(),
            None if update is None else update.contiguous(),
            weight.contiguous(),
            normed,
            None if update is None else total,
            scale,
            scale.numel(),
            width,
            eps,
            **settings,
        )
    return normed, total, scale


@norm_op.register_fake
def _empty(
    residual: Tensor,
    update: Tensor | None,
    weight: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = residual.shape
    return (
        residual.new_empty(shape, dtype=dtype),
        residual.new_empty((0,) if update is None else shape),
        residual.new_empty(shape[:-1], dtype=torch.float32),
    )


@torch.library.custom_op('mmscope::add_rms_norm_backward', mutates_args=())
def norm_backward_op(
    x: Tensor,
    scale: Tensor,
    weight: Tensor,
    grad_normed: Tensor,
    grad_total: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Gradients of what was normalised, and of the weight."""
    if x.numel() == 0:
        return torch.empty_like(x), torch.zeros_like(weight)
    settings, width = _blocks(x.shape[-1]), x.shape[-1]
    rows = scale.numel()
    programs = min(PARTIALS, cdiv(rows, settings['BLOCK_R']))
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    partials = x.new_empty(programs, width, dtype=torch.float32)
    with on_device(x):
        norm_grad_kernel[(programs,)](
            x.contiguous(),
            scale,
            weight.contiguous(),
            grad_normed.contiguous(),
            None if grad_total is None else grad_total.contiguous(),
            grad_x,
            partials,
            rows,
            width,
            **settings,
        )
    return grad_x, partials.sum(0).to(weight.dtype)


@norm_backward_op.register_fake
def _(
    x: Tensor,
    scale: Tensor,
    weight: Tensor,
    grad_normed: Tensor,
    grad_total: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), torch.empty_like(weight)


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    residual, update, weight, _, _ = inputs
    _, total, scale = output
    ctx.mark_non_differentiable(scale)
    ctx.save_for_backward(residual if update is None else total, scale, weight)
    ctx.update_dtype = None if update is None else update.dtype


def _backward(
    ctx: Any, grad_normed: Tensor, grad_total: Tensor, _: Tensor
) -> tuple[Tensor | None, ...]:
    alone = ctx.update_dtype is None
    grad, grad_weight = norm_backward_op(
        *ctx.saved_tensors, grad_normed, None if alone else grad_total
    )
    update = None if alone else grad.to(ctx.update_dtype)
    return grad, update, grad_weight, None, None


norm_op.register_autograd(_backward, setup_context=_setup_context)

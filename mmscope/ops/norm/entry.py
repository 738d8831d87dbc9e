"""RMSNorm: in C++ on CPU (``csrc/norm.h``), in Triton on GPUs, or torch's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backends import layer_kernels
from ..forward_mode import refuse_in
from ..scan.cpu import NOT_BUILT
from ..scan.reference import state_dtype
from ..scan.shapes import check_kinds


def plain_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See :func:`rms_norm`; in the dtype of ``x``."""
    normed = F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)
    return normed.to(weight.dtype)


def _fake_forward(
    x: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    return (
        x.new_empty(x.shape, dtype=weight.dtype),
        x.new_empty(x.shape[:-1], dtype=state_dtype(x)),
    )


def _fake_backward(
    grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, weight, _ = inputs
    _, scale = output
    ctx.mark_non_differentiable(scale)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, scale, weight)


def _backward(
    ctx: Any, grad: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None
    grads = torch.ops.mmscope.rms_norm_backward(grad, *ctx.saved_tensors)
    dx, dweight = (
        grad if need else None
        for grad, need in zip(grads, ctx.needs_input_grad[:2], strict=True)
    )
    return dx, dweight, None


if NOT_BUILT is None:
    torch.library.register_fake('mmscope::rms_norm_forward', _fake_forward)
    torch.library.register_fake('mmscope::rms_norm_backward', _fake_backward)
    torch.library.register_autograd(
        'mmscope::rms_norm_forward', _backward, setup_context=_setup_context
    )
    refuse_in('rms_norm_forward')


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, backend: str | None = None
) -> Tensor:
    """Divide by the root mean square along the last axis, then scale.

    Args:
        x: Tokens, (..., C); float32 or float64 for full precision.
        weight: (C,).
        eps: Added to the mean square.
        backend: Name of a scan backend, see :func:`layer_kernels`.

    Returns:
        (..., C), dtype of ``weight``.

    Raises:
        TypeError: a tensor is not of real floating point numbers.
        ValueError: the shapes or the devices do not agree.
    """
    _check(x, weight)
    kernels = layer_kernels('norm', x, backend)
    if kernels == 'cpu':
        return torch.ops.mmscope.rms_norm_forward.default(x, weight, eps)[0]
    if kernels == 'triton':
        from .triton import norm_op

        return norm_op(x, None, weight, eps, weight.dtype)[0]
    return plain_norm(x, weight, eps)


def add_rms_norm(
    residual: Tensor,
    update: Tensor | None,
    weight: Tensor,
    eps: float,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Add what a block gave to the residual stream and normalise the sum.

    In Triton it is one pass over the tokens, and under autocast they leave
    it as its products want them.

    Args:
        residual: Stream of tokens in float32 or float64, (..., C).
        update: Added to it, (..., C); None before the first block.
        weight: (C,).
        eps: Added to the mean square.
        backend: Name of a scan backend, see :func:`layer_kernels`.

    Returns:
        Normalised tokens, (..., C), dtype of ``weight`` or of autocast; and
        the sum, dtype of ``residual``.

    Raises:
        TypeError: a tensor is not of real floating point numbers.
        ValueError: the shapes or the devices do not agree.
    """
    _check(residual, weight)
    if update is not None and update.shape != residual.shape:
        raise ValueError(
            f'update must be {tuple(residual.shape)} as the residual stream, '
            f'got {tuple(update.shape)}'
        )
    fits = residual.dtype == torch.float32
    if fits and layer_kernels('norm', residual, backend) == 'triton':
        from .triton import norm_op

        kind = residual.device.type
        autocast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if autocast else weight.dtype
        normed, total, _ = norm_op(residual, update, weight, eps, dtype)
        return normed, residual if update is None else total
    if update is not None:
        residual = residual + update.to(residual.dtype)
    return rms_norm(residual, weight, eps, backend), residual


def _check(x: Tensor, weight: Tensor) -> None:
    if x.dim() == 0 or weight.shape != x.shape[-1:] or not len(weight):
        raise ValueError(
            'x must be (..., C) and weight (C,), got '
            f'{tuple(x.shape)} and {tuple(weight.shape)}'
        )
    check_kinds({'x': x, 'weight': weight})

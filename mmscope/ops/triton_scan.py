"""The 'triton' scan backend: custom ops, their gradients and the entry.

Registered with torch as opaque operators with fake implementations, so that
``torch.compile`` and ``torch.export`` keep a call in their graph as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import triton_scan_config as cuts
from .torch_chunk import Inputs, Options
from .triton_scan_config import MAX_STATES, choose
from .triton_scan_launch import (
    dense_rows,
    on_device,
    prepare,
    run_backward,
    run_forward,
    side_by_side,
)


def _shapes(
    u: Tensor, A: Tensor, merge: bool, importance: bool, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Empty outputs of ``scan_op``; what is not asked for has no elements."""
    groups, batch, length, dim = u.shape
    starts = (groups, batch, -(-length // cuts.EVERY), A.shape[2], dim)
    return (
        u.new_empty(u.shape[1:]) if merge else side_by_side(u),
        u.new_empty(
            (batch, length) if importance else (0,), dtype=torch.float32
        ),
        u.new_empty(starts if save else (0,), dtype=torch.float32),
    )


@torch.library.custom_op('mmscope::triton_scan', mutates_args=())
def scan_op(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: Sequence[bool],
    merge: bool,
    importance: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scan; see ``ScanCore`` for the arguments.

    Args:
        save: Whether a backward pass will follow.

    Returns:
        out; importance; the states before every ``EVERY`` steps,
        (G, B, ceil(L / EVERY), S, Dim). The last two are empty if not asked
        for: an operator always returns tensors.
    """
    if u.numel() == 0:
        return _shapes(u, A, merge, importance, save)
    inputs = prepare(Inputs(u, delta, A, B, C, D, z, delta_bias))
    options = Options(delta_softplus, tuple(reverse), merge, importance)

    def run(config: Any) -> tuple[Tensor, Tensor, Tensor]:
        return run_forward(inputs, options, save, config)

    with on_device(u):
        return run(choose(u, A.shape[-1], False, run))


@scan_op.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: Sequence[bool],
    merge: bool,
    importance: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _shapes(u, A, merge, importance, save)


@torch.library.custom_op('mmscope::triton_scan_backward', mutates_args=())
def scan_backward_op(
    grad: Tensor,
    starts: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: Sequence[bool],
    merge: bool,
) -> list[Tensor]:
    """Gradients of u to delta_bias, each in its dtype, without the absent.

    Args:
        grad: Gradient of out.
        starts: From ``scan_op``.
    """
    given = Inputs(u, delta, A, B, C, D, z, delta_bias)
    if u.numel() == 0:
        return [t.new_zeros(t.shape) for t in given if t is not None]
    inputs, grad = prepare(given), dense_rows(grad)
    options = Options(delta_softplus, tuple(reverse), merge, False)

    def run(config: Any) -> Inputs:
        return run_backward(inputs, options, starts, grad, config)

    with on_device(u):
        grads = run(choose(u, A.shape[-1], True, run))
    return [
        value.to(t.dtype).contiguous()
        for t, value in zip(given, grads, strict=True)
        if t is not None
    ]


@scan_backward_op.register_fake
def _(
    grad: Tensor,
    starts: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: Sequence[bool],
    merge: bool,
) -> list[Tensor]:
    given = (u, delta, A, B, C, D, z, delta_bias)
    return [t.new_empty(t.shape) for t in given if t is not None]


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, delta_softplus, reverse, merge, _, _ = inputs
    _, score, starts = output
    ctx.mark_non_differentiable(score, starts)
    ctx.save_for_backward(*tensors, starts)
    ctx.options = delta_softplus, reverse, merge


def _backward(
    ctx: Any, grad: Tensor, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    *tensors, starts = ctx.saved_tensors
    given = iter(scan_backward_op(grad, starts, *tensors, *ctx.options))
    grads = (None if t is None else next(given) for t in tensors)
    return *grads, None, None, None, None, None


scan_op.register_autograd(_backward, setup_context=_setup_context)


def triton_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: tuple[bool, ...],
    merge: bool,
    importance: bool,
) -> tuple[Tensor, Tensor | None]:
    """Scan by Triton kernels; see ``ScanCore`` for the arguments."""
    if A.shape[-1] > MAX_STATES:
        raise RuntimeError(
            f'the triton scan takes up to {MAX_STATES} states, got '
            f"{A.shape[-1]}; choose backend='torch'"
        )
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    save = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in tensors
    )
    out, score, _ = scan_op(
        *tensors, delta_softplus, list(reverse), merge, importance, save
    )
    return out, score if importance else None

"""The selective scan in C++ on CPU: operators of ``csrc``, built by setup.py.

``mmscope::scan_forward`` is an ordinary operator of torch: it has a fake
implementation and a gradient, so ``torch.compile`` and ``torch.export`` take
it. It needs no rule for autocast: an operator without one gets its tensors
as they are, and this one casts them itself, by ``reference.state_dtype``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from .reference import state_dtype

CHUNK = 32  # tokens between two saved states; see BackwardScratch in kernels.h
BUILD = "'pip install --no-deps --no-build-isolation -e .' builds it"


def _why_not_built() -> str | None:
    try:
        import_module('._C', __package__)  # this registers the operators
    except ModuleNotFoundError:
        return f'not built: with torch and a C++ compiler, {BUILD}'
    except ImportError as error:
        return f'built for another torch or Python ({error}): {BUILD} again'
    return None


NOT_BUILT = _why_not_built()


@cache
def _say_once(reason: str) -> None:
    logging.getLogger('mmscope').warning(
        'the C++ scan is %s; CPU tensors use slower plain torch', reason
    )


def why_not(u: Tensor) -> str | None:
    """Why a tensor like ``u`` cannot be scanned here, None if it can."""
    if u.device.type != 'cpu':
        return f'it scans CPU tensors only, and u is on {u.device}'
    if NOT_BUILT and not torch.compiler.is_compiling():
        _say_once(NOT_BUILT)
    return NOT_BUILT


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Scan with one instruction set, for tests.

    Args:
        name: One of :func:`isas`.
    """
    before = torch.ops.mmscope.scan_set_isa(name)
    try:
        yield
    finally:
        torch.ops.mmscope.scan_set_isa(before)


def isas() -> list[str]:
    """Instruction sets that this machine can run, fastest first."""
    return torch.ops.mmscope.scan_list_isas().split()


def _fake_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: list[int],
    merge: bool,
    importance: bool,
    chunk: int,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    groups, batch, length, dim = u.shape
    chunks = (length + chunk - 1) // chunk
    starts = (groups, batch, chunks, A.shape[-1], dim) if save else (0,)
    return (
        u.new_empty(u.shape[1:] if merge else u.shape),
        u.new_empty(
            (batch, length) if importance else (0,), dtype=torch.float32
        ),
        u.new_empty(starts, dtype=state_dtype(u)),
    )


def _fake_backward(
    grad: Tensor, starts: Tensor, *rest: Tensor | bool | None
) -> list[Tensor]:
    return [
        grad.new_empty((0,) if t is None else t.shape, dtype=like.dtype)
        for t in rest[:8]
        for like in [rest[0] if t is None else t]
    ]


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    _, score, starts = output
    tensors, options = inputs[:8], inputs[8:]
    ctx.mark_non_differentiable(score, starts)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(starts, *tensors)
    ctx.options = options


def _backward(
    ctx: Any, grad_out: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    grads = [None] * 8
    if grad_out is not None:
        starts, *tensors = ctx.saved_tensors
        softplus, reverse, merge, _, chunk, _ = ctx.options
        grads = torch.ops.mmscope.scan_backward(
            grad_out, starts, *tensors, softplus, reverse, merge, chunk
        )
        grads = [
            grad if need else None
            for grad, need in zip(grads, ctx.needs_input_grad, strict=False)
        ]
    return *grads, *([None] * len(ctx.options))


if NOT_BUILT is None:
    torch.library.register_fake('mmscope::scan_forward', _fake_forward)
    torch.library.register_fake('mmscope::scan_backward', _fake_backward)
    torch.library.register_autograd(
        'mmscope::scan_forward', _backward, setup_context=_setup_context
    )


def cpu_scan(
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
    """Scan in C++; see ``ScanCore`` for the arguments."""
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    save = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in tensors
    )
    out, score, _ = torch.ops.mmscope.scan_forward.default(
        *tensors,
        delta_softplus,
        [int(backward) for backward in reverse],
        merge,
        importance,
        CHUNK,
        save,
    )
    return out, score if importance else None

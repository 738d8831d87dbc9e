"""Scans as operators of torch: their schema, fakes and gradient.

A pair of operators ``mmscope::NAME_forward`` and ``mmscope::NAME_backward``
is opaque to ``torch.compile`` and ``torch.export``, which keep a call in
their graph as it is. C++ defines its own pair (``csrc/scan.cpp``) and takes
the rest from here.

No operator needs a rule for autocast: one without a rule gets its tensors as
they are, and every scan casts them itself, by ``reference.state_dtype``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..forward_mode import refuse
from .inputs import Inputs, Options
from .reference import state_dtype

_INPUTS = (
    'Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, '
    'Tensor? z, Tensor? delta_bias, bool delta_softplus, int[] reverse, '
    'bool merge, '
)
# the importance and the states before every ``chunk`` tokens,
# (G, B, ceil(L / chunk), S, Dim), are empty where they are not asked for
FORWARD = (
    f'({_INPUTS}bool importance, int chunk, bool save)'
    ' -> (Tensor, Tensor, Tensor)'
)
# the gradients of the inputs in their order, empty for what is None
BACKWARD = f'(Tensor grad, Tensor starts, {_INPUTS}int chunk) -> Tensor[]'

Forward = Callable[
    [Inputs, Options, int, bool], tuple[Tensor, Tensor | None, Tensor | None]
]
Backward = Callable[[Inputs, Options, int, Tensor, Tensor], Inputs]
Scan = Callable[[Inputs, Options, int], tuple[Tensor, Tensor | None]]


def define(
    name: str,
    forward: Forward,
    backward: Backward,
    fake: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None,
) -> None:
    """Define a pair of operators in Python, with fakes.

    Args:
        name: Name of the pair.
        forward: Function from inputs, options, tokens of a chunk and whether
            a backward pass follows, to out, importance and saved states; not
            called for an empty batch.
        backward: Function from inputs, options, tokens of a chunk, the states
            and out's gradient, to the gradients of the inputs in any dtype.
        fake: Function that gives empty outputs laid out as forward's, if
            they are not contiguous.
    """
    fake = fake or fake_forward

    def run_forward(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
        inputs, (softplus, reverse, *rest) = Inputs(*given[:8]), given[8:]
        merge, importance, chunk, save = rest
        reverse = tuple(map(bool, reverse))
        refuse(f'{name}_forward')
        if inputs.u.numel() == 0:
            return fake(*given)
        options = Options(softplus, reverse, merge, importance)
        out, score, starts = forward(inputs, options, chunk, save)
        if score is None:
            score = out.new_empty(0, dtype=torch.float32)
        if starts is None:
            starts = out.new_empty(0, dtype=state_dtype(out))
        return out, score, starts

    def run_backward(
        grad: Tensor, starts: Tensor, *given: Any
    ) -> list[Tensor]:
        inputs, (softplus, reverse, merge, chunk) = given[:8], given[8:]
        inputs = Inputs(*inputs)
        if grad.numel() == 0:
            return [
                grad.new_empty(0) if t is None else t.new_zeros(t.shape)
                for t in inputs
            ]
        reverse = tuple(map(bool, reverse))
        options = Options(softplus, reverse, merge, False)
        grads = backward(inputs, options, chunk, starts, grad)
        return [
            grad.new_empty(0) if t is None else g.to(t.dtype).contiguous()
            for t, g in zip(inputs, grads, strict=True)
        ]

    for part, run, schema, fake_outputs in (
        ('forward', run_forward, FORWARD, fake),
        ('backward', run_backward, BACKWARD, fake_backward),
    ):
        operator = torch.library.custom_op(
            f'mmscope::{name}_{part}', run, mutates_args=(), schema=schema
        )
        operator.register_fake(fake_outputs)


def fake_forward(
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
    """Outputs of the right shape."""
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


def fake_backward(
    grad: Tensor, starts: Tensor, *rest: Tensor | bool | None
) -> list[Tensor]:
    """Gradients of the right shape."""
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


def register(name: str) -> Scan:
    """Give a pair of operators a gradient; returns their call.

    The call takes inputs, options and the tokens of a chunk.
    """
    forward_op, backward_op = (
        getattr(torch.ops.mmscope, f'{name}_{part}').default
        for part in ('forward', 'backward')
    )

    def backward(
        ctx: Any, grad_out: Tensor | None, *_: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        grads = [None] * 8
        if grad_out is not None:
            starts, *tensors = ctx.saved_tensors
            softplus, reverse, merge, _, chunk, saved = ctx.options
            if not saved:  # traced where nothing asked for a gradient
                *_, starts = forward_op(
                    *tensors, softplus, reverse, merge, False, chunk, True
                )
            grads = backward_op(
                grad_out, starts, *tensors, softplus, reverse, merge, chunk
            )
            grads = [
                grad if need else None
                for grad, need in zip(
                    grads, ctx.needs_input_grad, strict=False
                )
            ]
        return *grads, *([None] * len(ctx.options))

    def scan(
        inputs: Inputs, options: Options, chunk: int
    ) -> tuple[Tensor, Tensor | None]:
        save = torch.is_grad_enabled() and any(
            t is not None and t.requires_grad for t in inputs
        )
        softplus, reverse, merge, importance = options
        reverse = [int(backward) for backward in reverse]
        out, score, _ = forward_op(
            *inputs, softplus, reverse, merge, importance, chunk, save
        )
        return out, score if importance else None

    torch.library.register_autograd(
        f'mmscope::{name}_forward', backward, setup_context=_setup_context
    )
    return scan

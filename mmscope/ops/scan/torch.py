"""The selective scan in plain torch, forward and backward, on any device.

Tokens are taken in chunks. For one chunk the decays exp(dt A) and the inputs
dt B u of all states are computed at once, so that the recurrence itself is a
single fused multiply-add per token, for all directions together. The backward
pass recomputes a chunk from the state at its start: inputs and those states
are all that is saved. Images are taken in slices that keep a chunk in the
cache; nothing of size L * S * Dim ever exists.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import Inputs, Options
from .operator import define, register
from .reference import state_dtype
from .torch_chunk import (
    CHUNK,
    LOG2_E,
    Buffers,
    Chunk,
    Weights,
    advance,
    make_buffers,
    make_weights,
    output,
    over_channels,
    over_states,
    put,
    read_chunk,
    retreat,
    slice_size,
    slices,
    take,
)


def _scan_slice(
    part: Inputs,
    weights: Weights,
    options: Options,
    out: Tensor,
    peaks: Tensor | None,
    starts: Tensor | None,
) -> None:
    """Scan one slice of the batch.

    Args:
        part, weights, options: The call.
        out: y is added to it, (G, b, L, Dim); all G may be one memory.
        peaks: Filled with the largest y of each token, (G, b, L, 1).
        starts: Filled with the state before each chunk,
            (G, b, chunks, S, Dim).
    """
    A_log2 = weights.A * LOG2_E
    everything = make_buffers(part, weights, backward=False)
    carry = everything.states.each[0].zero_()
    for i, span in enumerate(slices(part.u.shape[2], CHUNK)):
        buffers = everything.first(span.stop - span.start)
        chunk = read_chunk(part, weights, options, span)
        if starts is not None:
            starts[:, :, i] = carry
        advance(chunk, A_log2, buffers)
        y = output(chunk, weights, buffers.states.all)
        put(out, span, options.reverse, y, add=True)
        if peaks is not None:
            put(peaks, span, options.reverse, y.amax(-1, keepdim=True))
        carry.copy_(buffers.states.each[-1])


def _finish(sums: Tensor, z: Tensor | None, divisor: int) -> None:
    """Divide (..., b, L, Dim) and gate it, in place."""
    if divisor > 1:
        sums /= divisor
    if z is not None:
        for span in slices(z.shape[1], CHUNK):
            sums[..., span, :] *= F.silu(z[:, span].to(sums.dtype))


def _forward(
    inputs: Inputs, options: Options, starts: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """All slices; ``starts`` (G, B, chunks, S, Dim) is filled if given."""
    u, weights, dtype = inputs.u, make_weights(inputs), state_dtype(inputs.u)
    shape = u.shape[1:] if options.merge else u.shape
    out = u.new_empty(shape)
    peaks = (
        u.new_empty(*u.shape[:3], 1, dtype=dtype)
        if options.importance
        else None
    )
    for rows in slices(u.shape[1], slice_size(u, inputs.A.shape[-1])):
        part, target = inputs.rows(rows), out[..., rows, :, :]
        sums = torch.zeros_like(target, dtype=dtype)
        _scan_slice(
            part,
            weights,
            options,
            sums.expand(part.u.shape),
            None if peaks is None else peaks[:, rows],
            None if starts is None else starts[:, rows],
        )
        _finish(sums, part.z, len(u) if options.merge else 1)
        target.copy_(sums)
    if peaks is None:
        return out, None
    # softplus is monotone, so one softplus after the max is enough
    return out, F.softplus(peaks.amax(0).squeeze(-1)).float()


def _write_grads(
    chunk: Chunk,
    weights: Weights,
    options: Options,
    span: slice,
    dy: Tensor,
    buffers: Buffers,
    grads: Inputs,
) -> None:
    """Gradients of one chunk, after ``advance`` and ``retreat``.

    ``grads`` has the slice's u, delta, B, C, filled in, and the weights in
    the shapes of ``Weights``, added to.
    """
    decay, states, g = (steps.all for steps in buffers)
    d_driven = over_states(chunk.B, g)
    put(grads.B, span, options.reverse, over_channels(chunk.driven, g))
    put(grads.C, span, options.reverse, over_channels(dy, states[1:]))
    d_exponent = decay.mul_(g).mul_(states[:-1])  # of dt * A
    d_delta = torch.mul(d_exponent, weights.A, out=g).sum(-2)
    d_delta.addcmul_(d_driven, chunk.x)
    torch.mul(d_exponent, chunk.dt.unsqueeze(-2), out=g)
    grads.A.add_(g.sum(0).sum(1, keepdim=True))
    if options.delta_softplus:
        # the slope is sigmoid(x) = 1 - exp(-softplus(x))
        d_delta *= torch.expm1(-chunk.dt).neg_()
    du = d_driven.mul_(chunk.dt)
    if weights.D is not None:
        du.addcmul_(dy, weights.D)
        grads.D.add_((dy * chunk.x).sum((0, 2)).unsqueeze(1))
    if weights.delta_bias is not None:
        grads.delta_bias.add_(d_delta.sum((0, 2)).unsqueeze(1))
    put(grads.u, span, options.reverse, du)
    put(grads.delta, span, options.reverse, d_delta)


def _slice_backward(
    part: Inputs,
    weights: Weights,
    options: Options,
    starts: Tensor,
    grad_out: Tensor,
    grads: Inputs,
) -> None:
    """Chunks from the last to the first.

    Args:
        part, weights, options: The call, one slice of it.
        starts: State before each chunk, (G, b, chunks, S, Dim).
        grad_out: Gradient of every direction's gated output,
            (G, b, L, Dim); all G may be one memory.
        grads: Tensors of ``_write_grads`` and that of z, filled in.
    """
    dtype, shape, reverse = weights.A.dtype, part.u.shape, options.reverse
    A_log2 = weights.A * LOG2_E
    everything = make_buffers(part, weights, backward=True)
    carry = torch.zeros_like(starts[:, :, 0])
    d_gate = None if part.z is None else torch.zeros_like(part.z, dtype=dtype)
    for i, span in reversed(list(enumerate(slices(shape[2], CHUNK)))):
        buffers = everything.first(span.stop - span.start)
        chunk = read_chunk(part, weights, options, span)
        buffers.states.each[0].copy_(starts[:, :, i])
        advance(chunk, A_log2, buffers)
        dy = take(grad_out, span, reverse, dtype)
        if options.merge:
            dy /= len(reverse)
        if d_gate is not None:
            y = output(chunk, weights, buffers.states.all)
            put(d_gate.expand(shape), span, reverse, y.mul_(dy), add=True)
            dy *= F.silu(take(part.z.expand(shape), span, reverse, dtype))
        retreat(chunk.C, dy, carry, buffers)
        _write_grads(chunk, weights, options, span, dy, buffers, grads)
    if d_gate is not None:
        _silu_backward(d_gate, part.z)
        grads.z.copy_(d_gate)


def _silu_backward(grad: Tensor, z: Tensor) -> None:
    """Turn the gradient of silu(z) into that of z, in place."""
    for span in slices(z.shape[1], CHUNK):
        x = z[:, span].to(grad.dtype)
        sigmoid = torch.sigmoid(x)
        grad[:, span] *= sigmoid * (1 + x * (1 - sigmoid))


def _backward(
    inputs: Inputs, options: Options, starts: Tensor, grad_out: Tensor
) -> Inputs:
    """All slices: the gradients of the inputs; autograd casts them."""
    u, weights = inputs.u, make_weights(inputs)
    sums = Weights(
        *(None if t is None else torch.zeros_like(t) for t in weights)
    )
    result = Inputs(
        *(None if t is None else torch.empty_like(t) for t in inputs)
    )
    for rows in slices(u.shape[1], slice_size(u, inputs.A.shape[-1])):
        part = inputs.rows(rows)
        grads = result.rows(rows)._replace(**sums._asdict())
        grad = grad_out[..., rows, :, :].expand(part.u.shape)
        _slice_backward(part, weights, options, starts[:, rows], grad, grads)
    A, D, delta_bias = (None if t is None else t.squeeze(1) for t in sums)
    return result._replace(A=A.mT, D=D, delta_bias=delta_bias)


def _without_autocast(u: Tensor) -> AbstractContextManager:
    """Inputs are cast here, by one rule; autocast would cast the sums too."""
    kind = u.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(
        kind
    ):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def _run_forward(
    inputs: Inputs, options: Options, chunk: int, save: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As an operator, see ``scan_operator.define``."""
    u, (groups, dim, states), starts = inputs.u, inputs.A.shape, None
    if save:
        shape = groups, u.shape[1], math.ceil(u.shape[2] / chunk), states, dim
        starts = u.new_empty(shape, dtype=state_dtype(u))
    with _without_autocast(u):
        return *_forward(inputs, options, starts), starts


def _run_backward(
    inputs: Inputs, options: Options, chunk: int, starts: Tensor, grad: Tensor
) -> Inputs:
    """As an operator, see ``scan_operator.define``."""
    with _without_autocast(grad):
        return _backward(inputs, options, starts, grad)


define('torch_scan', _run_forward, _run_backward)
_scan = register('torch_scan')


def torch_scan(
    inputs: Inputs, options: Options
) -> tuple[Tensor, Tensor | None]:
    """Scan chunk by chunk; see ``ScanCore``."""
    return _scan(inputs, options, CHUNK)

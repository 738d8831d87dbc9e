"""One chunk of the plain torch scan: read tokens, advance, go back.

States are (G, b, S, Dim), channels last, b images of a slice of the batch.
Token tensors of a chunk are (k, G, b, F) in scan order: step t of every
direction at index t.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import Inputs, Options
from .reference import state_dtype

CHUNK = 64  # tokens between two saved states
# for the states of one chunk: the cache decides on a CPU, launches elsewhere
CHUNK_BYTES = {'cpu': 4 * 2**20}
CHUNK_BYTES_ELSEWHERE = 128 * 2**20
LOG2_E = math.log2(math.e)


class Weights(NamedTuple):
    """Weights in the dtype of the state, ready to broadcast."""

    A: Tensor  # (G, 1, S, Dim)
    D: Tensor | None  # (G, 1, Dim)
    delta_bias: Tensor | None  # (G, 1, Dim)


class Chunk(NamedTuple):
    """k tokens of a slice in scan order."""

    x: Tensor  # (k, G, b, Dim)
    dt: Tensor  # (k, G, b, Dim)
    driven: Tensor  # dt * x
    B: Tensor  # (k, G, b, S)
    C: Tensor  # (k, G, b, S)


class Steps(NamedTuple):
    """A tensor and its entries along axis 0, unbound only once."""

    all: Tensor
    each: tuple[Tensor, ...]

    @classmethod
    def like(cls, state: Tensor, size: int) -> Steps:
        """Room for ``size`` states."""
        steps = state.new_empty(size, *state.shape)
        return cls(steps, steps.unbind(0))

    def first(self, k: int) -> Steps:
        return Steps(self.all[:k], self.each[:k])


class Buffers(NamedTuple):
    """What one chunk needs of size (CHUNK, G, b, S, Dim), reused."""

    decay: Steps
    states: Steps  # one longer: the state before the chunk is first
    grads: Steps | None

    def first(self, k: int) -> Buffers:
        grads = None if self.grads is None else self.grads.first(k)
        return Buffers(self.decay.first(k), self.states.first(k + 1), grads)


def slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def slice_size(u: Tensor, states: int) -> int:
    """How many images to scan at once, so that a chunk stays in the cache."""
    groups, batch, length, dim = u.shape
    budget = CHUNK_BYTES.get(u.device.type, CHUNK_BYTES_ELSEWHERE)
    image = min(CHUNK, length) * groups * dim * states
    return max(1, min(batch, budget // (image * state_dtype(u).itemsize)))


def token_span(span: slice, length: int, backward: bool) -> slice:
    """The tokens that a span of scan steps visits."""
    if not backward:
        return span
    return slice(length - span.stop, length - span.start)


def take(
    x: Tensor, span: slice, reverse: tuple[bool, ...], dtype: torch.dtype
) -> Tensor:
    """Read steps ``span`` of (G, b, L, F) as (k, G, b, F) in scan order."""
    parts = []
    for tokens, backward in zip(x.unbind(0), reverse, strict=True):
        part = tokens[:, token_span(span, x.shape[2], backward)]
        parts.append(part.flip(1) if backward else part)
    return torch.stack(parts).permute(2, 0, 1, 3).to(dtype).contiguous()


def put(
    target: Tensor,
    span: slice,
    reverse: tuple[bool, ...],
    value: Tensor,
    add: bool = False,
) -> None:
    """Write (k, G, b, F) in scan order to steps ``span`` of (G, b, L, F)."""
    for g, backward in enumerate(reverse):
        part = target[g, :, token_span(span, target.shape[2], backward)]
        tokens = value[:, g].transpose(0, 1)
        tokens = tokens.flip(1) if backward else tokens
        if add:
            part += tokens
        else:
            part.copy_(tokens)


def make_weights(inputs: Inputs) -> Weights:
    dtype = state_dtype(inputs.u)
    A = inputs.A.to(dtype).mT.contiguous().unsqueeze(1)
    D, delta_bias = (
        None if t is None else t.to(dtype).unsqueeze(1)
        for t in (inputs.D, inputs.delta_bias)
    )
    return Weights(A, D, delta_bias)


def make_buffers(part: Inputs, weights: Weights, backward: bool) -> Buffers:
    groups, batch, length, _ = part.u.shape
    size, A = min(CHUNK, length), weights.A
    state = A.new_empty(1).expand(groups, batch, *A.shape[2:])
    return Buffers(
        Steps.like(state, size),
        Steps.like(state, size + 1),
        Steps.like(state, size) if backward else None,
    )


def read_chunk(
    part: Inputs, weights: Weights, options: Options, span: slice
) -> Chunk:
    x, dt, B, C = (
        take(t, span, options.reverse, weights.A.dtype)
        for t in (part.u, part.delta, part.B, part.C)
    )
    if weights.delta_bias is not None:
        dt += weights.delta_bias
    if options.delta_softplus:
        dt = F.softplus(dt)
    return Chunk(x, dt, dt * x, B, C)


def advance(chunk: Chunk, A_log2: Tensor, buffers: Buffers) -> None:
    """Fill decay and states[1:], given states[0].

    exp2 because torch's exp takes four times as long on some CPUs.
    """
    decay, states = buffers.decay, buffers.states
    torch.mul(chunk.dt.unsqueeze(-2), A_log2, out=decay.all).exp2_()
    torch.mul(
        chunk.driven.unsqueeze(-2), chunk.B.unsqueeze(-1), out=states.all[1:]
    )
    last, *rest = states.each
    for state, factor in zip(rest, decay.each, strict=True):
        last = state.addcmul_(factor, last)


def retreat(C: Tensor, dy: Tensor, carry: Tensor, buffers: Buffers) -> None:
    """Fill grads with the gradients of the states of a chunk.

    Args:
        C, dy: (k, G, b, S) and the gradient of y, (k, G, b, Dim).
        carry: What later chunks send to the last state, (G, b, S, Dim);
            replaced by what this chunk sends to the state before it.
        buffers: decay is read, grads is filled.
    """
    torch.mul(C.unsqueeze(-1), dy.unsqueeze(-2), out=buffers.grads.all)
    last, *rest = reversed(buffers.grads.each)
    *factors, first_factor = reversed(buffers.decay.each)
    last += carry
    for state, factor in zip(rest, factors, strict=True):
        last = state.addcmul_(factor, last)
    torch.mul(first_factor, last, out=carry)


def over_states(weight: Tensor, h: Tensor) -> Tensor:
    """Sum (k, G, b, S) times (k, G, b, S, Dim) over the states."""
    return torch.matmul(weight.unsqueeze(-2), h).squeeze(-2)


def over_channels(weight: Tensor, h: Tensor) -> Tensor:
    """Sum (k, G, b, Dim) times (k, G, b, S, Dim) over the channels."""
    return torch.matmul(weight.unsqueeze(-2), h.mT).squeeze(-2)


def output(chunk: Chunk, weights: Weights, states: Tensor) -> Tensor:
    """y with the D skip, (k, G, b, Dim)."""
    y = over_states(chunk.C, states[1:])
    return y if weights.D is None else y.addcmul_(chunk.x, weights.D)

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

from .reference import state_dtype

CHUNK = 64  # tokens between two saved states
# for the states of one chunk: the cache decides on a CPU, launches elsewhere
CHUNK_BYTES = {'cpu': 4 * 2**20}
CHUNK_BYTES_ELSEWHERE = 128 * 2**20
LOG2_E = math.log2(math.e)


class Options(NamedTuple):
    delta_softplus: bool
    reverse: tuple[bool, ...]
    merge: bool
    importance: bool


class Inputs(NamedTuple):
    """The tensors of one call, see ``ScanCore``."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None

    def rows(self, rows: slice) -> Inputs:
        """The same for a slice of the batch, as views."""
        return self._replace(
            u=self.u[:, rows],
            delta=self.delta[:, rows],
            B=self.B[:, rows],
            C=self.C[:, rows],
            z=None if self.z is None else self.z[rows],
        )


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


class Buffers(NamedTuple):
    """What one chunk needs of size (CHUNK, G, b, S, Dim), reused."""

    decay: Tensor
    states: Tensor  # one longer: the state before the chunk is first
    grads: Tensor | None

    def first(self, k: int) -> Buffers:
        grads = None if self.grads is None else self.grads[:k]
        return Buffers(self.decay[:k], self.states[: k + 1], grads)


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
    size, state = min(CHUNK, length), (groups, batch, *weights.A.shape[2:])
    decay = weights.A.new_empty(size, *state)
    return Buffers(
        decay,
        decay.new_empty(size + 1, *state),
        torch.empty_like(decay) if backward else None,
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
    torch.mul(chunk.dt.unsqueeze(-2), A_log2, out=decay).exp2_()
    torch.mul(
        chunk.driven.unsqueeze(-2), chunk.B.unsqueeze(-1), out=states[1:]
    )
    last, *rest = states.unbind(0)
    for state, factor in zip(rest, decay.unbind(0), strict=True):
        last = state.addcmul_(factor, last)


def retreat(C: Tensor, dy: Tensor, carry: Tensor, buffers: Buffers) -> None:
    """Fill grads with the gradients of the states of a chunk.

    Args:
        C, dy: (k, G, b, S) and the gradient of y, (k, G, b, Dim).
        carry: What later chunks send to the last state, (G, b, S, Dim);
            replaced by what this chunk sends to the state before it.
        buffers: decay is read, grads is filled.
    """
    torch.mul(C.unsqueeze(-1), dy.unsqueeze(-2), out=buffers.grads)
    last, *rest = reversed(buffers.grads.unbind(0))
    *factors, first_factor = reversed(buffers.decay.unbind(0))
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

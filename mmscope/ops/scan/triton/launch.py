"""Launches of the Triton scan: sizes, buffers, sums of partials."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...triton_check import interpreted
from ..inputs import Inputs, Options
from .backward import grad_kernel
from .config import Config, cdiv, cut, next_power_of_2
from .ends import ends_kernel
from .kernels import merge_kernel, scan_kernel

# what two numbers of 16 bits are read as
PAIRS = {torch.bfloat16: 'bf16', torch.float16: 'fp16'}


def on_device(u: Tensor) -> AbstractContextManager:
    """Triton launches on the current device: make it that of ``u``."""
    return torch.cuda.device(u.device) if u.is_cuda else nullcontext()


def dense_rows(x: Tensor) -> Tensor:
    """Channels contiguous, so that lanes read neighbouring addresses."""
    return x if x.stride(-1) == 1 else x.contiguous()


def odd(*numbers: int) -> tuple[int, ...]:
    """Numbers as the kernels take them: 2 n + 1.

    Triton compiles a kernel anew where an argument is 1 or a multiple of 16
    and was not before. Sizes and strides follow the batch, which early exits
    change from call to call.
    """
    return tuple([2 * n + 1 for n in numbers])


def tokens(x: Tensor | None) -> tuple | None:
    """A tensor of tokens as the kernels take it.

    Args:
        x: (G, B, L, F), or (B, L, F) for the same to every direction.
    """
    if x is None:
        return None
    *groups, batch, length, _ = x.stride()
    group = groups[0] if groups else 0
    return x, 2 * group + 1, 2 * batch + 1, 2 * length + 1


def as_pairs(B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, str | None]:
    """B and C in half precision as pairs of 32 bits, if they can be read so.

    Returns:
        (G, B, L, S / 2) of int32 and the kind of pairs; or what was given,
        and None.
    """
    kind = PAIRS.get(B.dtype)
    if kind is None or B.dtype != C.dtype or B.shape[-1] % 2:
        return B, C, None
    distances = [
        *(B.storage_offset(), C.storage_offset()),
        *(*B.stride()[:-1], *C.stride()[:-1]),
    ]
    if math.gcd(2, *distances) == 1:
        return B, C, None
    return B.view(torch.int32), C.view(torch.int32), kind


def alignment(*tensors: Tensor) -> int:
    """Bytes, up to 16, that every row of every tensor starts a multiple of."""
    numbers = [16]
    for x in tensors:
        numbers += [x.data_ptr(), math.gcd(*x.stride()[:-1]) * x.itemsize]
    return math.gcd(*numbers)


def padded(dim: int) -> int:
    """Channels that states are kept for: see ``tokens.tiles_of``."""
    return (dim + 31) // 32 * 32


@lru_cache
def settings_of(
    dim: int,
    states: int,
    softplus: bool,
    reverse: tuple[bool, ...],
    config: Config,
    pairs: str | None,
    align: int,
    fast: bool,
) -> dict[str, Any]:
    """What a kernel is compiled for."""
    block_s = next_power_of_2(states)
    return dict(
        STATES=states,
        SOFTPLUS=softplus,
        REVERSE=sum(1 << g for g, on in enumerate(reverse) if on),
        BLOCK_D=config.block_d,
        BLOCK_S=block_s,
        PER_LANE=max(1, config.block_d // (32 * config.num_warps)),
        PAIRS=pairs,
        ALIGN=align,
        EVEN=dim % config.block_d == 0 and states == block_s,
        FAST=fast,
        num_warps=config.num_warps,
        maxnreg=config.registers,
    )


class Call(NamedTuple):
    """What all launches of one pass share."""

    inputs: Inputs  # rows dense, weights contiguous, B and C as they are read
    sizes: tuple[int, ...]
    grid: tuple[int, int]
    settings: dict[str, Any]

    @classmethod
    def make(cls, inputs: Inputs, options: Options, config: Config) -> Call:
        groups, batch, length, dim = inputs.u.shape
        steps = cut(length, config.chunks)
        chunks = -(-length // steps)
        blocks = -(-dim // config.block_d)
        B, C, pairs = as_pairs(inputs.B, inputs.C)
        settings = settings_of(
            dim,
            inputs.A.shape[-1],
            options.delta_softplus,
            options.reverse,
            config,
            pairs,
            alignment(B, C),
            not interpreted(),
        )
        sizes = (batch, length, dim, blocks, chunks, steps)
        grid = blocks * chunks * batch, groups
        return cls(inputs._replace(B=B, C=C), sizes, grid, settings)

    def state_per_chunk(self) -> tuple[Tensor, Tensor]:
        """Room for (G, B, chunks, S, Dim) and (G, B, chunks, Dim)."""
        groups, dim, states = self.inputs.A.shape
        batch, chunks = self.sizes[0], self.sizes[4]
        make = self.inputs.u.new_empty
        return (
            make(
                groups, batch, chunks, states, padded(dim), dtype=torch.float32
            ),
            make(groups, batch, chunks, dim, dtype=torch.float32),
        )

    def ends(
        self, grad: Tensor | None, scale: float, unroll: int
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Launch phase 1: of the forward pass, or of grad's way back."""
        if self.sizes[4] == 1:
            return None, None
        inputs, (ends, sums) = self.inputs, self.state_per_chunk()
        adjoint = grad is not None
        ends_kernel[self.grid](
            tokens(grad if adjoint else inputs.u),
            tokens(inputs.C if adjoint else inputs.B),
            tokens(inputs.delta),
            tokens(inputs.z if adjoint else None),
            inputs.A,
            inputs.delta_bias,
            ends,
            sums,
            odd(*self.sizes),
            scale,
            ADJOINT=adjoint,
            UNROLL=unroll,
            **self.settings,
        )
        return ends, sums


def prepare(inputs: Inputs) -> Inputs:
    """Make rows dense and weights contiguous; copies nothing of Vim's."""
    u, delta, A, B, C, D, z, delta_bias = inputs
    u, delta, B, C = map(dense_rows, (u, delta, B, C))
    z = z if z is None else dense_rows(z)
    A, D, delta_bias = (
        x if x is None else x.contiguous() for x in (A, D, delta_bias)
    )
    return Inputs(u, delta, A, B, C, D, z, delta_bias)


def empty_states(u: Tensor, states: int, every: int) -> Tensor:
    """Room for the states before every so many steps."""
    groups, batch, length, dim = u.shape
    shape = groups, batch, (length + every - 1) // every, states, padded(dim)
    # nobody writes the padding, and operators must not return chance
    make = u.new_empty if padded(dim) == dim else u.new_zeros
    return make(shape, dtype=torch.float32)


def run_forward(
    inputs: Inputs, options: Options, every: int, save: bool, config: Config
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Launch the forward pass; returns out, importance and saved states."""
    call = Call.make(inputs, options, config)
    inputs, u, (groups, dim, states) = call.inputs, inputs.u, inputs.A.shape
    batch, length, blocks = call.sizes[0], call.sizes[1], call.sizes[3]
    peaks = starts = None
    if options.importance:
        shape = groups, batch, blocks, length
        peaks = u.new_empty(shape, dtype=torch.float32)
    if save:
        starts = empty_states(u, states, every)
    merged = options.merge and groups > 1
    # directions that are yet to be averaged are not rounded in between
    y = u.new_empty(u.shape, dtype=torch.float32 if merged else u.dtype)
    ends, sums = call.ends(None, 1.0, config.unroll)
    scan_kernel[call.grid](
        *(tokens(t) for t in (u, inputs.delta, inputs.B, inputs.C)),
        tokens(None if merged else inputs.z),
        tokens(y),
        inputs.A,
        inputs.D,
        inputs.delta_bias,
        peaks,
        starts,
        ends,
        sums,
        odd(*call.sizes),
        EVERY=every,
        UNROLL=config.unroll,
        **call.settings,
    )
    out = y[0] if options.merge else y
    if merged:
        out = u.new_empty(u.shape[1:])
        block = min(1024, next_power_of_2(dim))
        merge_kernel[batch * length, cdiv(dim, block)](
            tokens(y), tokens(inputs.z), out, odd(length, dim),
            GROUPS=groups, BLOCK_D=block, num_warps=max(1, block // 256),
        )  # fmt: skip
    # softplus is monotone, so one softplus after the max is enough
    score = None if peaks is None else F.softplus(peaks.amax((0, 2)))
    return out, score, starts


def run_backward(
    inputs: Inputs,
    options: Options,
    every: int,
    starts: Tensor,
    grad: Tensor,
    config: Config,
) -> Inputs:
    """Launch the backward pass; returns gradients of the inputs."""
    call = Call.make(inputs, options, config)
    inputs, u, (groups, dim, states) = call.inputs, inputs.u, inputs.A.shape
    batch, length, _, blocks, chunks, _ = call.sizes
    scale = 1 / groups if options.merge else 1.0
    settings = call.settings

    def make(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return u.new_empty(shape, dtype=dtype)

    du = make(*u.shape, dtype=u.dtype)
    ddelta = make(*u.shape, dtype=inputs.delta.dtype)
    dz = None if inputs.z is None else make(*u.shape)
    dBC = make(blocks, 2, groups, batch, length, states)
    dA = make(groups, batch * chunks, padded(dim) // 32, states, 32)
    dD, dbias = (make(groups, batch * chunks, dim) for _ in range(2))
    scratch = make(
        call.grid[0] * groups * every // config.unroll,
        settings['BLOCK_S'] * settings['BLOCK_D'],
    )
    ends, sums = call.ends(grad, scale, config.unroll)
    grad_kernel[call.grid](
        *(tokens(t) for t in (u, inputs.delta, inputs.B, inputs.C)),
        tokens(inputs.z),
        tokens(grad),
        inputs.A,
        inputs.D,
        inputs.delta_bias,
        starts,
        ends,
        sums,
        scratch,
        *(du, ddelta, dz, dBC, dA, dD, dbias),
        odd(*call.sizes),
        scale,
        EVERY=every,
        SUB=config.unroll,
        HALVING=settings['BLOCK_S'] == 16
        and (config.block_d, config.num_warps) == (32, 1),
        **settings,
    )
    dz = None if dz is None else dz.sum(0)
    dA = dA.sum(1).mT.flatten(1, 2)[:, :dim]
    # apart, since outputs of an operator must not share memory
    dB, dC = dBC[:, 0].sum(0), dBC[:, 1].sum(0)
    return Inputs(du, ddelta, dA, dB, dC, dD.sum(1), dz, dbias.sum(1))

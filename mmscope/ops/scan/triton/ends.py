"""The Triton kernel that tells what every chunk of a scan hands on."""

import triton
import triton.language as tl

from .kernels import decay
from .tokens import (
    place,
    plain,
    read_A,
    read_steps,
    read_weight,
    row_of,
    sigmoid,
    size_of,
    step_size,
    store_tiles,
    tiles_of,
    unpack,
    zero_tiles,
)


@triton.jit
def gather_steps(
    h, total, steps, A2, shift, scale, left, MASKED: tl.constexpr,
    PAIRS: tl.constexpr, SOFTPLUS: tl.constexpr, ADJOINT: tl.constexpr,
    FAST: tl.constexpr,
):  # fmt: skip
    """Take steps for ``ends_kernel``; the sum of their sizes is added up.

    Args:
        left: How many of the steps there are, if ``MASKED``.
    """
    for j in tl.static_range(len(steps)):
        values, weights = steps[j]
        raw = values[1].to(tl.float32) + shift
        dt, _ = step_size(raw, SOFTPLUS, FAST)
        if MASKED:
            dt = tl.where(j < left, dt, 0.0)
        x, w, after = values[0].to(tl.float32), unpack(weights[0], PAIRS), ()
        if ADJOINT:
            x *= scale
            if len(values) == 3:
                gate = values[2].to(tl.float32)
                x *= gate * sigmoid(gate, FAST)
        else:
            x *= dt
        for p in tl.static_range(len(h)):
            add, a = w[p][None, :] * x[:, None], decay(dt, A2[p])
            if ADJOINT:
                after = after + ((h[p] + add) * a,)
            else:
                after = after + (h[p] * a + add,)
        h, total = after, total + dt
    return h, total


@triton.jit
def ends_kernel(
    value, weight, delta, z, A, bias, ends, sums, sizes, scale,
    STATES: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
    ADJOINT: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
    PER_LANE: tl.constexpr, UNROLL: tl.constexpr, PAIRS: tl.constexpr,
    ALIGN: tl.constexpr, EVEN: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """What every chunk hands on if it is handed zeros, for ``carry_in``.

    Forward: value u, weight B; the state after the chunk. ``ADJOINT``: value
    the gradient of the output, weight C, from the last step to the first; the
    gradient of the state before the chunk.

    Args:
        ends: (G, B, chunks, S, Dim) as ``tiles_of`` has it, filled.
        sums: (G, B, chunks, Dim), filled: sum of the step sizes.
    """
    batch, length, dim, blocks, chunks, steps = plain(sizes)
    block, part, at = place(length, blocks, chunks, REVERSE)
    channels = block * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = channels < dim
    PARTS: tl.constexpr = 1 if PAIRS is None else 2
    tiles, masks = tiles_of(channels, inside, STATES, BLOCK_S, PER_LANE, PARTS)
    A2 = read_A(A, at[0], dim, channels, masks, STATES, BLOCK_S)
    size = size_of(dim, STATES)
    shift = read_weight(bias, at[0], dim, channels, inside)
    s = tl.arange(0, BLOCK_S // PARTS)
    lanes = channels, inside, s, s < STATES // PARTS
    count = min(steps, length - part * steps)
    WAY: tl.constexpr = -1 if ADJOINT else 1
    first = part * steps + (count - 1 if ADJOINT else 0)
    by_channel = (
        row_of(value, at, first, WAY),
        row_of(delta, at, first, WAY),
    )
    if z is not None:
        by_channel = by_channel + (row_of(z, at, first, WAY),)
    by_state = (row_of(weight, at, first, WAY),)
    h, total = zero_tiles(A2), tl.zeros((BLOCK_D,), tl.float32)
    turns = tl.maximum(count // UNROLL - 1, 0) // 2
    now = read_steps(
        by_channel, by_state, 0, count, lanes, True, EVEN, ALIGN, UNROLL,
    )  # fmt: skip
    for i in range(0, turns):
        t = 2 * i * UNROLL
        then = read_steps(
            by_channel, by_state, t + UNROLL, count, lanes, False, EVEN, ALIGN,
            UNROLL,
        )  # fmt: skip
        h, total = gather_steps(
            h, total, now, A2, shift, scale, 0, False, PAIRS, SOFTPLUS,
            ADJOINT, FAST,
        )  # fmt: skip
        now = read_steps(
            by_channel, by_state, t + 2 * UNROLL, count, lanes, False, EVEN,
            ALIGN, UNROLL,
        )  # fmt: skip
        h, total = gather_steps(
            h, total, then, A2, shift, scale, 0, False, PAIRS, SOFTPLUS,
            ADJOINT, FAST,
        )  # fmt: skip
    for t in range(2 * turns * UNROLL, count, UNROLL):
        now = read_steps(
            by_channel, by_state, t, count, lanes, True, EVEN, ALIGN, UNROLL
        )
        h, total = gather_steps(
            h, total, now, A2, shift, scale, count - t, True, PAIRS, SOFTPLUS,
            ADJOINT, FAST,
        )  # fmt: skip
    row = (at[0] * batch + at[1]).to(tl.int64) * chunks + part
    tl.store(sums + row * dim + channels, total, mask=inside)
    store_tiles(ends + row * size, h, tiles, masks)

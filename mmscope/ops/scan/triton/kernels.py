"""Triton kernels of the scan's forward pass.

A program owns one direction, one image, ``BLOCK_D`` channels and a chunk of
the tokens, and goes through them one by one: channels in lanes, all states of
a channel in that lane's registers, so that the sum over the states needs no
shuffles. Tokens are rows of channels, so neighbouring lanes read neighbouring
addresses, and a scan from the end only turns the sign of the row stride:
nothing is flipped or transposed. Rows are padded to ``BLOCK_D`` and states to
``BLOCK_S`` by masks.

Few programs share a processor, too few to hide each other's waiting, so one
reads ahead: the inputs of ``UNROLL`` steps are under way while those before
are computed. Two sets of registers take turns, since handing one on to the
other would copy it.
"""

import triton
import triton.language as tl

from .tokens import (
    load_tiles,
    place,
    plain,
    read,
    read_A,
    read_steps,
    read_weight,
    row_of,
    rows,
    sigmoid,
    size_of,
    step_size,
    store_tiles,
    tiles_of,
    unpack,
    zero_tiles,
)


@triton.jit
def decay(dt, A2):
    """What a step leaves of a state, [D, S]; A2 is A log2(e)."""
    return tl.exp2(dt[:, None] * A2)


@triton.jit
def carry_in(
    ends, sums, A2, first, count, move: tl.constexpr, dim, tiles, masks,
    channels, inside, STATES: tl.constexpr,
):  # fmt: skip
    """What ``count`` chunks hand on to the one after them, tiles [D, S].

    Args:
        ends: What a chunk hands on if it is handed nothing, (.., S, Dim).
        sums: Step sizes summed over a chunk, (.., Dim): exp2(A2 * sum) is its
            whole decay, so no products are stored.
        first, move: The first chunk, and 1 or -1 to the next.
    """
    h, size = zero_tiles(A2), size_of(dim, STATES)
    for i in range(0, count):
        chunk = first + move * i
        total = read(sums + chunk * dim, channels, inside)
        end = load_tiles(ends + chunk * size, tiles, masks)
        after = ()
        for p in tl.static_range(len(h)):
            after = after + (decay(total, A2[p]) * h[p] + end[p],)
        h = after
    return h


@triton.jit
def largest(x, inside, EVEN: tl.constexpr, FAST: tl.constexpr):
    """The largest of [D]; NaN if one is, which ``tl.max`` would skip."""
    if not EVEN:
        x = tl.where(inside, x, float('-inf'))
    if FAST:
        peak = tl.reduce(x, 0, _max_or_nan)
    else:
        peak = tl.max(x, axis=0)
        peak = tl.where(
            tl.sum((x != x).to(tl.int32), 0) > 0, float('nan'), peak
        )
    return peak


@triton.jit
def _max_or_nan(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def scan_steps(
    h, steps, A2, shift, skip, y, peaks, first, end, lanes,
    MASKED: tl.constexpr, EVEN: tl.constexpr, PAIRS: tl.constexpr,
    SOFTPLUS: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Take the steps that were read and write y, gated if a gate was read.

    Args:
        y, peaks: Rows; peaks may be None.
        first, end: First step and end; some are beyond it if ``MASKED``.
    """
    channels, inside, _, _ = lanes
    for j in tl.static_range(len(steps)):
        t = first + j
        values, weights = steps[j]
        x = values[0].to(tl.float32)
        raw = values[1].to(tl.float32) + shift
        dt, _ = step_size(raw, SOFTPLUS, FAST)
        if MASKED:
            dt = tl.where(t < end, dt, 0.0)
        B, C = unpack(weights[0], PAIRS), unpack(weights[1], PAIRS)
        driven, out, after = (dt * x)[:, None], skip * x, ()
        for p in tl.static_range(len(B)):
            state = decay(dt, A2[p]) * h[p] + B[p][None, :] * driven
            out += tl.sum(state * C[p][None, :], axis=1)
            after = after + (state,)
        h = after
        if peaks is not None:
            peak = largest(out, inside, EVEN, FAST)
            tl.store(peaks[0] + t * peaks[1], peak, mask=t < end)
        if len(values) == 3:
            gate = values[2].to(tl.float32)
            out *= gate * sigmoid(gate, FAST)
        to = (y[0] + channels) + t * y[1]
        out = out.to(to.dtype.element_ty)
        if EVEN and not MASKED:
            tl.store(to, out)
        else:
            tl.store(to, out, mask=inside & (t < end))
    return h


@triton.jit
def scan_kernel(
    u, delta, B, C, z, y, A, D, bias, peaks, starts, ends, sums, sizes,
    STATES: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
    EVERY: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
    PER_LANE: tl.constexpr, UNROLL: tl.constexpr, PAIRS: tl.constexpr,
    ALIGN: tl.constexpr, EVEN: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Scan one chunk and write y, gated if ``z`` is given.

    Args:
        y: Filled.
        peaks: (G, B, blocks, L) or None, filled: the largest y before the
            gate of every token and channel block.
        starts: State before every ``EVERY`` steps, for the backward pass,
            (G, B, ceil(L / EVERY), S, Dim) as ``tiles_of`` has it, filled;
            or None.
        ends, sums: Outputs of ``ends_kernel``; None if there is one chunk.
        sizes: See ``tokens``; a chunk's steps are a multiple of ``EVERY``, as
            that is of ``UNROLL``.
    """
    batch, length, dim, blocks, chunks, steps = plain(sizes)
    block, part, at = place(length, blocks, chunks, REVERSE)
    g, b, origin, sign = at
    image = (g * batch + b).to(tl.int64)
    channels = block * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = channels < dim
    PARTS: tl.constexpr = 1 if PAIRS is None else 2
    tiles, masks = tiles_of(channels, inside, STATES, BLOCK_S, PER_LANE, PARTS)
    A2 = read_A(A, g, dim, channels, masks, STATES, BLOCK_S)
    size = size_of(dim, STATES)
    shift = read_weight(bias, g, dim, channels, inside)
    skip = read_weight(D, g, dim, channels, inside)
    if ends is not None:
        h = carry_in(
            ends, sums, A2, image * chunks, part, 1, dim, tiles, masks,
            channels, inside, STATES,
        )  # fmt: skip
    else:
        h = zero_tiles(A2)
    s = tl.arange(0, BLOCK_S // PARTS)
    lanes = channels, inside, s, s < STATES // PARTS
    begin = part * steps
    count = min(steps, length - begin)
    by_channel = (
        row_of(u, at, begin, 1),
        row_of(delta, at, begin, 1),
    )
    if z is not None:
        by_channel = by_channel + (row_of(z, at, begin, 1),)
    by_state = (row_of(B, at, begin, 1), row_of(C, at, begin, 1))
    y = row_of(y, at, begin, 1)
    if peaks is not None:
        row = peaks + (image * blocks + block) * length
        peaks = row + origin + sign * begin, sign
    if starts is not None:
        row = image * tl.cdiv(length, EVERY) + begin // EVERY
        starts += row * size
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
        if starts is not None:
            save(starts, h, t, size, tiles, masks, EVERY)
        h = scan_steps(
            h, now, A2, shift, skip, y, peaks, t, count, lanes, False, EVEN,
            PAIRS, SOFTPLUS, FAST,
        )  # fmt: skip
        now = read_steps(
            by_channel, by_state, t + 2 * UNROLL, count, lanes, False, EVEN,
            ALIGN, UNROLL,
        )  # fmt: skip
        if starts is not None:
            save(starts, h, t + UNROLL, size, tiles, masks, EVERY)
        h = scan_steps(
            h, then, A2, shift, skip, y, peaks, t + UNROLL, count, lanes,
            False, EVEN, PAIRS, SOFTPLUS, FAST,
        )  # fmt: skip
    for t in range(2 * turns * UNROLL, count, UNROLL):
        now = read_steps(
            by_channel, by_state, t, count, lanes, True, EVEN, ALIGN, UNROLL
        )
        if starts is not None:
            save(starts, h, t, size, tiles, masks, EVERY)
        h = scan_steps(
            h, now, A2, shift, skip, y, peaks, t, count, lanes, True, EVEN,
            PAIRS, SOFTPLUS, FAST,
        )  # fmt: skip


@triton.jit
def save(
    starts, h, t, size, tiles, masks, EVERY: tl.constexpr,
):  # fmt: skip
    """Keep the state before step t of this chunk, if it is its turn."""
    if t % EVERY == 0:
        store_tiles(starts + t // EVERY * size, h, tiles, masks)


@triton.jit
def merge_kernel(
    y, z, out, sizes, GROUPS: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Average the directions and gate them: one token a program.

    Done after the scans, since the other direction of a token is computed
    elsewhere at another time, and adding there would take atomics.

    Args:
        y: Ungated, (G, B, L, Dim).
        out: (B, L, Dim), contiguous, filled.
        sizes: (L, Dim).
    """
    length, dim = plain(sizes)
    row = tl.program_id(0).to(tl.int64)
    at = (tl.program_id(0) * 0, row // length, row % length, row * 0 + 1)
    channels = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = channels < dim
    total = tl.zeros((BLOCK_D,), tl.float32)
    first, _ = rows(y, at)
    stride = plain(y[1:2])[0]
    for g in tl.static_range(GROUPS):
        total += read(first + g * stride, channels, inside)
    total /= GROUPS
    if z is not None:
        gate = read(rows(z, at)[0], channels, inside)
        total *= gate * tl.sigmoid(gate)
    target = out + row * dim + channels
    tl.store(target, total.to(out.dtype.element_ty), mask=inside)

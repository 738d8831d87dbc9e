"""Triton kernels of the scan's forward pass, and what both passes share.

A program owns one direction, one image, ``BLOCK_D`` channels and a chunk of
the tokens, and goes through them one by one: channels in lanes, all states of
a channel in that lane's registers, so that the sum over the states needs no
shuffles. Tokens are rows of channels, so neighbouring lanes read neighbouring
addresses, and a scan from the end only turns the sign of the row stride:
nothing is flipped or transposed. "Step t" is the t-th token that a direction
visits. Rows are padded to ``BLOCK_D`` and states to ``BLOCK_S`` by masks.

Tensors of tokens, (G, B, L, F), come as tuples (pointer, strides of the first
three axes); F is contiguous. ``sizes`` is (B, L, Dim, channel blocks, chunks,
steps of a chunk).
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def place(sizes, REVERSE: tl.constexpr):
    """Which part is this program's: block, chunk, and the place to read at.

    Channel blocks of one image and chunk are neighbours, since they read the
    same B and C. A place is (direction, image, first token, +1 or -1).
    """
    batch, length, dim, blocks, chunks, steps = sizes
    pid, g = tl.program_id(0), tl.program_id(1)
    backward = (REVERSE >> g) & 1
    at = (
        g,
        pid // blocks // chunks,
        backward * (length - 1),
        1 - 2 * backward,
    )
    return pid % blocks, pid // blocks % chunks, at


@triton.jit
def tile_of(s, stride, channels, PER_LANE: tl.constexpr):
    """Offsets of a [D, S] tile in (S, stride), whole channels to a lane.

    Triton lays tiles out for the widest loads, which would spread a channel's
    states over lanes. Told that only ``PER_LANE`` channels follow each other,
    it has no reason to.
    """
    tile = s[None, :] * stride + channels[:, None]
    return tl.max_contiguous(tile, [PER_LANE, 1])


@triton.jit
def rows(tokens, at):
    """Address of the row a direction visits first, and the way to the next.

    In 64 bits: a token times its stride may exceed 32.
    """
    g, b, origin, sign = at
    base, stride_g, stride_b, stride = tokens
    base += g.to(tl.int64) * stride_g + b.to(tl.int64) * stride_b
    return base + origin.to(tl.int64) * stride, sign.to(tl.int64) * stride


@triton.jit
def read(row, columns, mask):
    return tl.load(row + columns, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def read_row(row, t, columns, mask):
    return read(row[0] + t * row[1], columns, mask)


@triton.jit
def read_weight(weight, g, dim, channels, inside):
    """A direction's row of a (G, Dim) weight, 0 without it."""
    if weight is None:
        row = tl.zeros(channels.shape, tl.float32)
    else:
        row = read(weight + g * dim, channels, inside)
    return row


@triton.jit
def read_A(A, g, dim, s, channels, mask, STATES: tl.constexpr):
    """A of (G, Dim, S) as [D, S]."""
    where = (g * dim + channels[:, None]) * STATES + s[None, :]
    where = tl.max_contiguous(where, [1, 1])  # as in tile_of
    return tl.load(A + where, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def read_step(row, t, columns, lanes, here, bias, SOFTPLUS: tl.constexpr):
    """Size of step t and its slope; 0 after the end, so that h stays."""
    raw = read_row(row, t, columns, lanes) + bias
    if SOFTPLUS:
        e = tl.exp2(-LOG2_E * tl.abs(raw))
        # log(1 + e) rounds e away where it is small: log1p's series there
        series = e * (1 - e * (0.5 - e * (1 / 3 - e * (0.25 - e * 0.2))))
        tail = tl.where(e < 0.0625, series, tl.log(1 + e))
        dt = tl.maximum(raw, 0.0) + tail
        slope = tl.where(raw < 0, e, 1.0) / (1 + e)
    else:
        dt, slope = raw, tl.full(raw.shape, 1.0, tl.float32)
    return tl.where(here, dt, 0.0), slope


@triton.jit
def advance(h, dt, x, Bt, A2):
    """h of the next token, [D, S], and its decay; A2 is A log2(e)."""
    a = tl.exp2(dt[:, None] * A2)
    return a * h + Bt[None, :] * (dt * x)[:, None], a


@triton.jit
def carry_in(
    ends, sums, A2, first, count, move: tl.constexpr, dim, tile, mask,
    channels, inside, STATES: tl.constexpr,
):  # fmt: skip
    """What ``count`` chunks hand on to the one after them, [D, S].

    Args:
        ends: What a chunk hands on if it is handed nothing, (.., S, Dim).
        sums: Step sizes summed over a chunk, (.., Dim): exp2(A2 * sum) is its
            whole decay, so no products are stored.
        first, move: The first chunk, and 1 or -1 to the next.
        tile: Offsets of an [D, S] tile in (S, Dim).
    """
    h = tl.zeros(A2.shape, tl.float32)
    for i in range(0, count):
        chunk = first + move * i
        total = read(sums + chunk * dim, channels, inside)
        end = tl.load(ends + chunk * STATES * dim + tile, mask=mask, other=0.0)
        h = tl.exp2(total[:, None] * A2) * h + end
    return h


@triton.jit
def ends_kernel(
    value, weight, delta, z, A, bias, ends, sums, sizes, scale,
    STATES: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
    ADJOINT: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
    PER_LANE: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """What every chunk hands on if it is handed zeros, for ``carry_in``.

    Forward: value u, weight B; the state after the chunk. ``ADJOINT``: value
    the gradient of the output, weight C, from the last step to the first; the
    gradient of the state before the chunk.

    Args:
        ends: (G, B, chunks, S, Dim), filled.
        sums: (G, B, chunks, Dim), filled: sum of the step sizes.
    """
    block, part, at = place(sizes, REVERSE)
    batch, length, dim, blocks, chunks, steps = sizes
    channels = block * BLOCK_D + tl.arange(0, BLOCK_D)
    s = tl.arange(0, BLOCK_S)
    inside, states = channels < dim, s < STATES
    mask = states[None, :] & inside[:, None]
    value, weight, delta = rows(value, at), rows(weight, at), rows(delta, at)
    if z is not None:
        z = rows(z, at)
    A2 = read_A(A, at[0], dim, s, channels, mask, STATES) * LOG2_E
    shift = read_weight(bias, at[0], dim, channels, inside)
    h = tl.zeros((BLOCK_D, BLOCK_S), tl.float32)
    total = tl.zeros((BLOCK_D,), tl.float32)
    for i in range(0, steps, UNROLL):
        for j in tl.static_range(UNROLL):
            t = part * steps + i + j
            if ADJOINT:
                t = part * steps + steps - 1 - i - j
            here = t < length
            lanes = inside & here
            dt, _ = read_step(delta, t, channels, lanes, here, shift, SOFTPLUS)
            x = read_row(value, t, channels, lanes)
            w = read_row(weight, t, s, states & here)
            if ADJOINT:
                if z is not None:
                    gate = read_row(z, t, channels, lanes)
                    x *= gate * tl.sigmoid(gate)
                h += w[None, :] * (x * scale)[:, None]
                h *= tl.exp2(dt[:, None] * A2)
            else:
                h, _ = advance(h, dt, x, w, A2)
            total += dt
    row = (at[0] * batch + at[1]).to(tl.int64) * chunks + part
    tl.store(sums + row * dim + channels, total, mask=inside)
    tile = tile_of(s, dim, channels, PER_LANE)
    tl.store(ends + row * STATES * dim + tile, h, mask=mask)


@triton.jit
def scan_kernel(
    u, delta, B, C, z, y, A, D, bias, peaks, starts, ends, sums, sizes,
    STATES: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
    EVERY: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
    PER_LANE: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Scan one chunk and write y, gated if ``z`` is given.

    Args:
        y: Filled.
        peaks: (blocks, G, B, L) or None, filled: the largest y before the
            gate of every token and channel block.
        starts: (G, B, ceil(L / EVERY), S, Dim) or None, filled: the state
            before every ``EVERY`` steps, for the backward pass.
        ends, sums: From ``ends_kernel``; None if there is one chunk.
        sizes: See above; a chunk's steps are a multiple of ``EVERY``, as that
            is of ``UNROLL``.
    """
    block, part, at = place(sizes, REVERSE)
    batch, length, dim, blocks, chunks, steps = sizes
    g, b, origin, sign = at
    image = (g * batch + b).to(tl.int64)
    channels = block * BLOCK_D + tl.arange(0, BLOCK_D)
    s = tl.arange(0, BLOCK_S)
    inside, states = channels < dim, s < STATES
    mask = states[None, :] & inside[:, None]
    tile = tile_of(s, dim, channels, PER_LANE)
    u, delta, B, C = rows(u, at), rows(delta, at), rows(B, at), rows(C, at)
    y = rows(y, at)
    if z is not None:
        z = rows(z, at)
    A2 = read_A(A, g, dim, s, channels, mask, STATES) * LOG2_E
    shift = read_weight(bias, g, dim, channels, inside)
    skip = read_weight(D, g, dim, channels, inside)
    h = tl.zeros((BLOCK_D, BLOCK_S), tl.float32)
    if ends is not None:
        h = carry_in(
            ends, sums, A2, image * chunks, part, 1, dim, tile, mask,
            channels, inside, STATES,
        )  # fmt: skip
    begin = part * steps
    for t in range(begin, min(begin + steps, length), UNROLL):
        if starts is not None and t % EVERY == 0:
            row = image * tl.cdiv(length, EVERY) + t // EVERY
            tl.store(starts + row * STATES * dim + tile, h, mask=mask)
        # all loads of these steps come before the first store: behind one
        # that may alias, the compiler could not move them ahead
        ys, gates = (), ()
        for j in tl.static_range(UNROLL):
            here = t + j < length
            lanes = inside & here
            dt, _ = read_step(
                delta, t + j, channels, lanes, here, shift, SOFTPLUS
            )
            x = read_row(u, t + j, channels, lanes)
            Bt = read_row(B, t + j, s, states & here)
            Ct = read_row(C, t + j, s, states & here)
            h, _ = advance(h, dt, x, Bt, A2)
            ys = ys + (tl.sum(h * Ct[None, :], axis=1) + skip * x,)
            if z is not None:
                gate = read_row(z, t + j, channels, lanes)
                gates = gates + (gate * tl.sigmoid(gate),)
        for j in tl.static_range(UNROLL):
            here, out = t + j < length, ys[j]
            if peaks is not None:
                peak = tl.max(tl.where(inside, out, float('-inf')), axis=0)
                row = (block * tl.num_programs(1) + g).to(tl.int64) * batch + b
                token = row * length + origin + sign * (t + j)
                tl.store(peaks + token, peak, mask=here)
            if z is not None:
                out *= gates[j]
            target = y[0] + (t + j) * y[1] + channels
            out = out.to(target.dtype.element_ty)
            tl.store(target, out, mask=inside & here)


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
    length, dim = sizes
    row = tl.program_id(0).to(tl.int64)
    at = (tl.program_id(0) * 0, row // length, row % length, row * 0 + 1)
    channels = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = channels < dim
    total = tl.zeros((BLOCK_D,), tl.float32)
    first, _ = rows(y, at)
    for g in tl.static_range(GROUPS):
        total += read(first + g * y[1], channels, inside)
    total /= GROUPS
    if z is not None:
        gate = read(rows(z, at)[0], channels, inside)
        total *= gate * tl.sigmoid(gate)
    target = out + row * dim + channels
    tl.store(target, total.to(out.dtype.element_ty), mask=inside)

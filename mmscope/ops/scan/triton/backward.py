"""The Triton kernel of the scan's backward pass.

The forward pass keeps the state before every ``EVERY`` steps, nothing else. A
program takes these stretches from the last to the first. It walks a stretch
once to leave the state before every ``SUB`` steps in scratch memory of its
own (small enough for the caches), then takes those steps backwards with all
their states in registers. Sums over channels (gradients of B and C) leave one
partial per channel block, sums over tokens one per image and chunk; they are
added up afterwards in a fixed order: no atomics, the same bits every time.
"""

import triton
import triton.language as tl

from .kernels import (
    LOG2_E,
    advance,
    carry_in,
    place,
    read_A,
    read_row,
    read_step,
    read_weight,
    rows,
    tile_of,
)


@triton.jit
def leave_states(
    own, h, begin, u, delta, B, A2, shift, length, s, states, channels,
    inside, SOFTPLUS: tl.constexpr, EVERY: tl.constexpr, SUB: tl.constexpr,
):  # fmt: skip
    """Walk a stretch forward from h; store the state before every SUB steps.

    Args:
        own: Addresses of an [D, S] tile in this program's scratch memory.
    """
    tl.debug_barrier()  # all lanes have read the last stretch
    for i in range(0, EVERY, SUB):
        tl.store(own + i // SUB * h.numel, h)
        for j in tl.static_range(SUB):
            t = begin + i + j
            here = t < length
            lanes = inside & here
            dt, _ = read_step(delta, t, channels, lanes, here, shift, SOFTPLUS)
            x = read_row(u, t, channels, lanes)
            Bt = read_row(B, t, s, states & here)
            h, _ = advance(h, dt, x, Bt, A2)
    tl.debug_barrier()


@triton.jit
def walk(
    h, begin, u, delta, B, z, grad, A2, shift, scale, length, s, states,
    channels, inside, SOFTPLUS: tl.constexpr, SUB: tl.constexpr,
):  # fmt: skip
    """Take SUB steps forward and keep all that their gradients need.

    Returns:
        Tuples over the steps: (x, dt, slope, dy before the gate, what dz is
        per unit of y), decays and states; states has the one before first.
    """
    tokens, decays, hs = (), (), (h,)
    for j in tl.static_range(SUB):
        t = begin + j
        here = t < length
        lanes = inside & here
        dt, slope = read_step(delta, t, channels, lanes, here, shift, SOFTPLUS)
        x = read_row(u, t, channels, lanes)
        dy = read_row(grad, t, channels, lanes) * scale
        dgate = dy
        if z is not None:
            gate = read_row(z, t, channels, lanes)
            sigmoid = tl.sigmoid(gate)
            dgate = dy * sigmoid * (1 + gate * (1 - sigmoid))
            dy *= gate * sigmoid
        Bt = read_row(B, t, s, states & here)
        h, a = advance(h, dt, x, Bt, A2)
        tokens = tokens + ((x, dt, slope, dy, dgate),)
        decays, hs = decays + (a,), hs + (h,)
    return tokens, decays, hs


@triton.jit
def grad_kernel(
    u, delta, B, C, z, grad, A, D, bias, starts, ends, sums, scratch,
    du, ddelta, dz, dBC, dA, dD, dbias, sizes, scale,
    STATES: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
    EVERY: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
    PER_LANE: tl.constexpr, SUB: tl.constexpr,
):  # fmt: skip
    """Gradients of one chunk.

    Args:
        grad: Gradient of the output; every direction's is ``scale`` times it
            (1 / G after a mean).
        starts: From ``scan_kernel``.
        ends, sums: From ``ends_kernel`` with ``ADJOINT``, None if there is
            one chunk.
        scratch: (programs, EVERY / SUB, BLOCK_S, BLOCK_D).
        du, ddelta: (G, B, L, Dim), filled.
        dz: The same or None, filled: what each direction adds to it.
        dBC: (blocks, 2, G, B, L, S), filled.
        dA: (G, B * chunks, S, Dim), filled.
        dD, dbias: (G, B * chunks, Dim), filled.
        sizes: See ``triton_scan_kernels``.
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
    grad = rows(grad, at)
    if z is not None:
        z = rows(z, at)
    A2 = read_A(A, g, dim, s, channels, mask, STATES) * LOG2_E
    shift = read_weight(bias, g, dim, channels, inside)
    skip = read_weight(D, g, dim, channels, inside)
    carry = tl.zeros((BLOCK_D, BLOCK_S), tl.float32)
    if ends is not None:
        last = chunks - 1
        carry = carry_in(
            ends, sums, A2, image * chunks + last, last - part, -1, dim, tile,
            mask, channels, inside, STATES,
        )  # fmt: skip
    dA_sum = tl.zeros((BLOCK_D, BLOCK_S), tl.float32)
    dD_sum, dbias_sum = tl.zeros_like(skip), tl.zeros_like(skip)
    program = (g * tl.num_programs(0) + tl.program_id(0)).to(tl.int64)
    own = scratch + program * (EVERY // SUB * BLOCK_S * BLOCK_D)
    own += tile_of(s, BLOCK_D, tl.arange(0, BLOCK_D), PER_LANE)
    stretches = tl.cdiv(min(steps, length - part * steps), EVERY)
    all_tokens = (tl.num_programs(1) * batch).to(tl.int64) * length
    for k in range(0, stretches):
        begin = part * steps + (stretches - 1 - k) * EVERY
        row = image * tl.cdiv(length, EVERY) + begin // EVERY
        h = tl.load(starts + row * STATES * dim + tile, mask=mask, other=0.0)
        leave_states(
            own, h, begin, u, delta, B, A2, shift, length, s, states,
            channels, inside, SOFTPLUS, EVERY, SUB,
        )  # fmt: skip
        for i in range(0, EVERY, SUB):
            first = EVERY - SUB - i
            h = tl.load(own + first // SUB * BLOCK_S * BLOCK_D)
            tokens, decays, hs = walk(
                h, begin + first, u, delta, B, z, grad, A2, shift, scale,
                length, s, states, channels, inside, SOFTPLUS, SUB,
            )  # fmt: skip
            for j in tl.static_range(SUB):
                t = begin + first + SUB - 1 - j
                lanes, uniform = inside & (t < length), states & (t < length)
                x, dt, slope, dy, dgate = tokens[SUB - 1 - j]
                before, after = hs[SUB - 1 - j], hs[SUB - j]
                Bt = read_row(B, t, s, uniform)
                Ct = read_row(C, t, s, uniform)
                dh = Ct[None, :] * dy[:, None] + carry
                carry = decays[SUB - 1 - j] * dh
                d_driven = tl.sum(dh * Bt[None, :], axis=1)
                d_exponent = carry * before
                d_raw = tl.sum(d_exponent * A2, axis=1) / LOG2_E
                d_raw = (d_raw + d_driven * x) * slope
                dA_sum += d_exponent * dt[:, None]
                dD_sum += dy * x
                dbias_sum += d_raw
                token = image * length + origin + sign * t
                to = token * dim + channels
                value = d_driven * dt + skip * dy
                tl.store(du + to, value.to(du.dtype.element_ty), mask=lanes)
                value = d_raw.to(ddelta.dtype.element_ty)
                tl.store(ddelta + to, value, mask=lanes)
                if z is not None:
                    y = tl.sum(after * Ct[None, :], axis=1) + skip * x
                    tl.store(dz + to, y * dgate, mask=lanes)
                to = (2 * block * all_tokens + token) * STATES + s
                dB = tl.sum(dh * (dt * x)[:, None], axis=0)
                tl.store(dBC + to, dB, mask=uniform)
                dC = tl.sum(after * dy[:, None], axis=0)
                tl.store(dBC + to + all_tokens * STATES, dC, mask=uniform)
    row = image * chunks + part
    tl.store(dA + row * STATES * dim + tile, dA_sum, mask=mask)
    tl.store(dD + row * dim + channels, dD_sum, mask=inside)
    tl.store(dbias + row * dim + channels, dbias_sum, mask=inside)

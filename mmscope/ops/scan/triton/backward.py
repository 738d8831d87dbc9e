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

from .kernels import carry_in, decay
from .sums import store_sums
from .tokens import (
    LOG2_E,
    load_tiles,
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
def leave_states(
    own, h, begin, by_channel, by_state, A2, shift, count, lanes, tiles,
    masks, EVERY: tl.constexpr, SUB: tl.constexpr, SIZE: tl.constexpr,
    PAIRS: tl.constexpr, SOFTPLUS: tl.constexpr, ALIGN: tl.constexpr,
    FAST: tl.constexpr,
):  # fmt: skip
    """Walk a stretch forward from h; store the state before every SUB steps.

    Args:
        own: This program's scratch memory, ``SIZE`` for each of the states.
        tiles, masks: Places of a state's tiles in it.
    """
    tl.debug_barrier()  # all lanes have read the last stretch
    for i in range(0, EVERY, SUB):
        store_tiles(own + i // SUB * SIZE, h, tiles, masks)
        steps = read_steps(
            by_channel, by_state, begin + i, count, lanes, True, False, ALIGN,
            SUB,
        )  # fmt: skip
        for j in tl.static_range(SUB):
            values, weights = steps[j]
            raw = values[1].to(tl.float32) + shift
            dt, _ = step_size(raw, SOFTPLUS, FAST)
            dt = tl.where(begin + i + j < count, dt, 0.0)
            driven = (dt * values[0].to(tl.float32))[:, None]
            B, after = unpack(weights[0], PAIRS), ()
            for p in tl.static_range(len(h)):
                state = decay(dt, A2[p]) * h[p] + B[p][None, :] * driven
                after = after + (state,)
            h = after
    tl.debug_barrier()


@triton.jit
def walk(
    h, first, steps, A2, shift, scale, count, PAIRS: tl.constexpr,
    SOFTPLUS: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Take steps forward and keep all that their gradients need.

    Returns:
        Tuples over the steps: (x, dt, slope, dy before the gate, what dz is
        per unit of y), decays and states; states has the one before first.
    """
    tokens, decays, hs = (), (), (h,)
    for j in tl.static_range(len(steps)):
        values, weights = steps[j]
        raw = values[1].to(tl.float32) + shift
        dt, slope = step_size(raw, SOFTPLUS, FAST)
        dt = tl.where(first + j < count, dt, 0.0)
        x = values[0].to(tl.float32)
        dy = values[2].to(tl.float32) * scale
        dgate = dy
        if len(values) == 4:
            gate = values[3].to(tl.float32)
            open = sigmoid(gate, FAST)
            dgate = dy * open * (1 + gate * (1 - open))
            dy *= gate * open
        B, after, left = unpack(weights[0], PAIRS), (), ()
        driven = (dt * x)[:, None]
        for p in tl.static_range(len(h)):
            a = decay(dt, A2[p])
            after = after + (a * h[p] + B[p][None, :] * driven,)
            left = left + (a,)
        h = after
        tokens = tokens + ((x, dt, slope, dy, dgate),)
        decays, hs = decays + (left,), hs + (h,)
    return tokens, decays, hs


@triton.jit
def step_back(
    token, weights, left, before, after, carry, dA_sum, A2, skip,
    PAIRS: tl.constexpr,
):  # fmt: skip
    """Take one step of ``walk`` back.

    Args:
        token: x, dt, slope, dy and dgate, as ``walk`` returns them.
        weights: B and C as they were read.
        left: Decays of this step.
        before, after: States before and after it.
        carry: What the steps behind it hand back, for each state.
        dA_sum: Sums of the gradients of A so far.

    Returns:
        Gradients of what drives the states and of the raw step size; y; what
        dB and dC sum over channels; the new ``carry`` and ``dA_sum``.
    """
    x, dt, slope, dy, _ = token
    Bt, Ct = unpack(weights[0], PAIRS), unpack(weights[1], PAIRS)
    d_driven, d_raw = tl.zeros_like(x), tl.zeros_like(x)
    y, dB, dC, handed, sums_A = skip * x, (), (), (), ()
    for p in tl.static_range(len(carry)):
        dh = Ct[p][None, :] * dy[:, None] + carry[p]
        dB = dB + (dh * (dt * x)[:, None],)
        dC = dC + (after[p] * dy[:, None],)
        d_driven += tl.sum(dh * Bt[p][None, :], axis=1)
        y += tl.sum(after[p] * Ct[p][None, :], axis=1)
        dh *= left[p]
        d_exponent = dh * before[p]
        d_raw += tl.sum(d_exponent * A2[p], axis=1)
        sums_A = sums_A + (dA_sum[p] + d_exponent * dt[:, None],)
        handed = handed + (dh,)
    d_raw = (d_raw / LOG2_E + d_driven * x) * slope
    return d_driven, d_raw, y, dB, dC, handed, sums_A


@triton.jit
def grad_kernel(
    u, delta, B, C, z, grad, A, D, bias, starts, ends, sums, scratch,
    du, ddelta, dz, dBC, dA, dD, dbias, sizes, scale,
    STATES: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
    EVERY: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
    PER_LANE: tl.constexpr, SUB: tl.constexpr, PAIRS: tl.constexpr,
    ALIGN: tl.constexpr, EVEN: tl.constexpr, FAST: tl.constexpr,
    HALVING: tl.constexpr,
):  # fmt: skip
    """Gradients of one chunk.

    Args:
        grad: Gradient of the output; every direction's is ``scale`` times it
            (1 / G after a mean).
        starts: States that ``scan_kernel`` kept.
        ends, sums: Outputs of ``ends_kernel`` with ``ADJOINT``; None if
            there is one chunk.
        scratch: (programs, EVERY / SUB, BLOCK_S, BLOCK_D).
        du, ddelta: (G, B, L, Dim), filled.
        dz: The same or None, filled: what each direction adds to it.
        dBC: (blocks, 2, G, B, L, S), filled.
        dA: (G, B * chunks, S, Dim) as ``tiles_of`` has it, filled.
        dD, dbias: (G, B * chunks, Dim), filled.
        sizes: See ``tokens``.
        HALVING: Whether sums over channels are taken by ``sum_halving``.
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
        last = chunks - 1
        carry = carry_in(
            ends, sums, A2, image * chunks + last, last - part, -1, dim,
            tiles, masks, channels, inside, STATES,
        )  # fmt: skip
    else:
        carry = zero_tiles(A2)
    dA_sum = zero_tiles(A2)
    dD_sum, dbias_sum = tl.zeros_like(skip), tl.zeros_like(skip)
    SIZE: tl.constexpr = BLOCK_S * BLOCK_D
    program = (g * tl.num_programs(0) + tl.program_id(0)).to(tl.int64)
    own = scratch + program * (EVERY // SUB * SIZE)
    own_tiles, _ = tiles_of(
        tl.arange(0, BLOCK_D), inside, STATES, BLOCK_S, PER_LANE, PARTS
    )
    s = tl.arange(0, BLOCK_S // PARTS)
    lanes = channels, inside, s, s < STATES // PARTS
    begin = part * steps
    count = min(steps, length - begin)
    by_channel = row_of(u, at, begin, 1), row_of(delta, at, begin, 1)
    inputs = by_channel + (row_of(grad, at, begin, 1),)
    if z is not None:
        inputs = inputs + (row_of(z, at, begin, 1),)
    by_state = row_of(B, at, begin, 1), row_of(C, at, begin, 1)
    stretches = tl.cdiv(count, EVERY)
    all_tokens = (tl.num_programs(1) * batch).to(tl.int64) * length
    for k in range(0, stretches):
        start = (stretches - 1 - k) * EVERY
        row = image * tl.cdiv(length, EVERY) + (begin + start) // EVERY
        h = load_tiles(starts + row * size, tiles, masks)
        leave_states(
            own, h, start, by_channel, by_state[:1], A2, shift, count, lanes,
            own_tiles, masks, EVERY, SUB, SIZE, PAIRS, SOFTPLUS, ALIGN,
            FAST,
        )  # fmt: skip
        for i in range(0, EVERY, SUB):
            first = start + EVERY - SUB - i
            inputs_of = read_steps(
                inputs, by_state, first, count, lanes, True, EVEN, ALIGN, SUB
            )
            h = load_tiles(
                own + (EVERY - SUB - i) // SUB * SIZE, own_tiles, masks
            )
            tokens, decays, hs = walk(
                h, first, inputs_of, A2, shift, scale, count, PAIRS, SOFTPLUS,
                FAST,
            )  # fmt: skip
            for n in tl.static_range(SUB - 1, -1, -1):
                t = first + n
                here = t < count
                x, dt, slope, dy, dgate = tokens[n]
                d_driven, d_raw, y, dB, dC, carry, dA_sum = step_back(
                    tokens[n], inputs_of[n][1], decays[n], hs[n], hs[n + 1],
                    carry, dA_sum, A2, skip, PAIRS,
                )  # fmt: skip
                dD_sum += dy * x
                dbias_sum += d_raw
                token = image * length + origin + sign * (begin + t)
                to = token * dim + channels
                value = d_driven * dt + skip * dy
                mask = inside & here
                tl.store(du + to, value.to(du.dtype.element_ty), mask=mask)
                value = d_raw.to(ddelta.dtype.element_ty)
                tl.store(ddelta + to, value, mask=mask)
                if z is not None:
                    tl.store(dz + to, y * dgate, mask=mask)
                to = dBC + (2 * block * all_tokens + token) * STATES
                store_sums(
                    to, all_tokens * STATES, dB, dC, here, STATES, BLOCK_D,
                    BLOCK_S, HALVING,
                )  # fmt: skip
    row = image * chunks + part
    store_tiles(dA + row * size, dA_sum, tiles, masks)
    tl.store(dD + row * dim + channels, dD_sum, mask=inside)
    tl.store(dbias + row * dim + channels, dbias_sum, mask=inside)

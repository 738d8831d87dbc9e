"""How the Triton kernels of the scan read their tokens.

Tensors of tokens, (G, B, L, F), come as tuples (pointer, strides of the first
three axes); F is contiguous. "Step t" is the t-th token that a direction
visits. ``sizes`` is (B, L, Dim, channel blocks, chunks, steps of a chunk).
All these numbers come as ``launch.odd`` makes them.

The states of a channel are one tile [D, S], or two: B and C in half precision
are read as pairs, 32 bits each, of which one tile has the first and the other
the second. A pair stays as it is until its step comes: reads run ahead of
the arithmetic and must not fill the registers.

``FAST`` takes the GPU's own approximations where they are as good as float32
goes; the interpreter, which knows no assembler, goes without.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def plain(numbers):
    """Numbers that ``launch.odd`` has made odd."""
    values = ()
    for i in tl.static_range(len(numbers)):
        values = values + (numbers[i] >> 1,)
    return values


@triton.jit
def place(length, blocks, chunks, REVERSE: tl.constexpr):
    """Which part is this program's: block, chunk, and the place to read at.

    Channel blocks of one image and chunk are neighbours, since they read the
    same B and C. A place is (direction, image, first token, +1 or -1).
    """
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
def rows(tokens, at):
    """Address of the row a direction visits first, and the way to the next.

    In 64 bits: a token times its stride may exceed 32.
    """
    g, b, origin, sign = at
    base = tokens[0]
    stride_g, stride_b, stride = plain(tokens[1:])
    base += g.to(tl.int64) * stride_g + b.to(tl.int64) * stride_b
    return base + origin.to(tl.int64) * stride, sign.to(tl.int64) * stride


@triton.jit
def load(pointers, mask, MASKED: tl.constexpr):
    """Without a mask where there is nothing to keep out: it costs."""
    if MASKED:
        value = tl.load(pointers, mask=mask, other=0)
    else:
        value = tl.load(pointers)
    return value


@triton.jit
def read(row, columns, mask):
    return tl.load(row + columns, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def read_weight(weight, g, dim, channels, inside):
    """A direction's row of a (G, Dim) weight, 0 without it."""
    if weight is None:
        row = tl.zeros(channels.shape, tl.float32)
    else:
        row = read(weight + g * dim, channels, inside)
    return row


@triton.jit
def tiles_of(
    channels, inside, STATES: tl.constexpr, BLOCK_S: tl.constexpr,
    PER_LANE: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Where the tiles of all states go in memory of our own, and masks.

    It is (channels / 32, S, 32): so the states of a channel are known
    distances apart, which take no registers. Whole channels belong to a
    lane. Triton lays tiles out for the widest access, which would spread a
    channel's states over lanes; told that only ``PER_LANE`` channels follow
    each other, it has no reason to.
    """
    tiles, masks = (), ()
    first = (channels // 32 * (32 * STATES) + channels % 32).to(tl.int64)
    for p in tl.static_range(PARTS):
        s = tl.arange(0, BLOCK_S // PARTS) * PARTS + p
        tile = tl.max_contiguous(
            first[:, None] + s[None, :] * 32, [PER_LANE, 1]
        )
        tiles = tiles + (tile,)
        masks = masks + ((s < STATES)[None, :] & inside[:, None],)
    return tiles, masks


@triton.jit
def size_of(dim, STATES: tl.constexpr):
    """Numbers that all states of a token take there."""
    return tl.cdiv(dim, 32) * 32 * STATES


@triton.jit
def read_A(
    A, g, dim, channels, masks, STATES: tl.constexpr, BLOCK_S: tl.constexpr
):
    """A log2(e) as tiles, from (G, Dim, S)."""
    values = ()
    PARTS: tl.constexpr = len(masks)
    for p in tl.static_range(PARTS):
        s = tl.arange(0, BLOCK_S // PARTS) * PARTS + p
        where = (g * dim + channels[:, None]) * STATES + s[None, :]
        where = tl.max_contiguous(where, [1, 1])  # as in tiles_of
        a = tl.load(A + where, mask=masks[p], other=0.0)
        values = values + (a.to(tl.float32) * LOG2_E,)
    return values


@triton.jit
def load_tiles(address, tiles, masks):
    values = ()
    for p in tl.static_range(len(tiles)):
        value = tl.load(address + tiles[p], mask=masks[p], other=0.0)
        values = values + (value,)
    return values


@triton.jit
def store_tiles(address, values, tiles, masks):
    for p in tl.static_range(len(tiles)):
        tl.store(address + tiles[p], values[p], mask=masks[p])


@triton.jit
def zero_tiles(like):
    values = ()
    for p in tl.static_range(len(like)):
        values = values + (tl.zeros_like(like[p]),)
    return values


@triton.jit
def unpack(row, PAIRS: tl.constexpr):
    """A row of B or C in float32: [S], or its even and its odd states."""
    if PAIRS == 'bf16':
        first = (row << 16).to(tl.float32, bitcast=True)
        second = (row & -65536).to(tl.float32, bitcast=True)
        parts = (first, second)
    elif PAIRS == 'fp16':
        first = row.to(tl.int16).to(tl.float16, bitcast=True)
        second = (row >> 16).to(tl.int16).to(tl.float16, bitcast=True)
        parts = (first.to(tl.float32), second.to(tl.float32))
    else:
        parts = (row.to(tl.float32),)
    return parts


@triton.jit
def log_1p(e, FAST: tl.constexpr):
    """log(1 + e) for e in [0, 1], to float32's precision."""
    if FAST:
        log = LN_2 * tl.inline_asm_elementwise(
            'lg2.approx.ftz.f32 $0, $1;', '=f,f', [1 + e], dtype=tl.float32,
            is_pure=True, pack=1,
        )  # fmt: skip
    else:
        log = tl.log(1 + e)
    # where e is small, 1 + e rounds it away: log1p's series
    series = e * (1 - e * (0.5 - e * (1 / 3 - e * (0.25 - e * 0.2))))
    return tl.where(e < 0.0625, series, log)


@triton.jit
def reciprocal(x, FAST: tl.constexpr):
    if FAST:
        inverse = tl.inline_asm_elementwise(
            'rcp.approx.ftz.f32 $0, $1;', '=f,f', [x], dtype=tl.float32,
            is_pure=True, pack=1,
        )  # fmt: skip
    else:
        inverse = 1 / x
    return inverse


@triton.jit
def sigmoid(x, FAST: tl.constexpr):
    return reciprocal(1 + tl.exp2(-LOG2_E * x), FAST)


@triton.jit
def step_size(raw, SOFTPLUS: tl.constexpr, FAST: tl.constexpr):
    """Size of a step and its slope."""
    if SOFTPLUS:
        e = tl.exp2(-LOG2_E * tl.abs(raw))
        dt = tl.maximum(raw, 0.0) + log_1p(e, FAST)
        slope = tl.where(raw < 0, e, 1.0) * reciprocal(1 + e, FAST)
    else:
        dt, slope = raw, tl.full(raw.shape, 1.0, tl.float32)
    return dt, slope


@triton.jit
def row_of(tokens, at, first, WAY: tl.constexpr):
    """Address of the row of step ``first``, and the way to the next one.

    Args:
        WAY: 1 to go on from there, -1 to go back.
    """
    base, stride = rows(tokens, at)
    return base + first * stride, WAY * stride


@triton.jit
def read_steps(
    by_channel, by_state, first, end, lanes, MASKED: tl.constexpr,
    EVEN: tl.constexpr, ALIGN: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Start to read what ``UNROLL`` steps need, from step ``first``.

    Args:
        by_channel, by_state: Tuples of rows, see ``row_of``.
        end: The first step that must not be read, if ``MASKED``.
        lanes: Channels [D], which are there, states [S], which are there.
        EVEN: Whether all are there.
        ALIGN: Bytes of which every row of states is a multiple.

    Returns:
        For each step its values, as they are in memory, in two tuples.
    """
    CHECK: tl.constexpr = MASKED or not EVEN
    channels, inside, s, states = lanes
    steps = ()
    for j in tl.static_range(UNROLL):
        t, values, weights = first + j, (), ()
        if MASKED:
            inside, states = lanes[1] & (t < end), lanes[3] & (t < end)
        for k in tl.static_range(len(by_channel)):
            row, stride = by_channel[k]
            value = load((row + channels) + t * stride, inside, CHECK)
            values = values + (value,)
        for k in tl.static_range(len(by_state)):
            row, stride = by_state[k]
            where = tl.multiple_of(row + t * stride + s, [ALIGN])
            weights = weights + (load(where, states, CHECK),)
        steps = steps + ((values, weights),)
    return steps

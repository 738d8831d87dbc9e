"""Sums over the channels of a program, many at once."""

import triton
import triton.language as tl


@triton.jit
def keep_half(a, b, lane, BIT: tl.constexpr):
    """Half of the lanes add up a, half b: the one and its partner's share.

    Args:
        a, b: [D, N], a lane's values.
        lane: [D]; ``BIT`` of it says which half it is in.
    """
    second = ((lane & BIT) > 0)[:, None]
    kept, given = tl.where(second, b, a), tl.where(second, a, b)
    partner = tl.broadcast_to((lane ^ BIT)[:, None], given.shape)
    return kept + tl.gather(given, partner, 0)


@triton.jit
def sum_halving(dB, dC, lane, BLOCK_S: tl.constexpr):
    """Sum 2 x 16 states over 32 channels, each lane in the end one of them.

    Lanes agree pairwise who goes on with which half of the values: 31
    exchanges instead of 5 for every value.

    Args:
        dB, dC: Tuples of tiles [32, S].

    Returns:
        [32], lane's bits from the highest: is it C's, then the bits of the
        state from the lowest.
    """
    if len(dB) == 1:
        both = keep_half(dB[0], dC[0], lane, 16)
        first, second = tl.split(both.reshape(32, BLOCK_S // 2, 2))
    else:
        first = keep_half(dB[0], dC[0], lane, 16)
        second = keep_half(dB[1], dC[1], lane, 16)
    both = keep_half(first, second, lane, 8)
    first, second = tl.split(both.reshape(32, 4, 2))
    both = keep_half(first, second, lane, 4)
    first, second = tl.split(both.reshape(32, 2, 2))
    both = keep_half(first, second, lane, 2)
    first, second = tl.split(both.reshape(32, 1, 2))
    return keep_half(first, second, lane, 1).reshape(32)


@triton.jit
def store_sums(
    to, apart, dB, dC, here, STATES: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr, HALVING: tl.constexpr,
):  # fmt: skip
    """Store the sums over channels of one token.

    Args:
        to: Address of dB; dC goes ``apart`` behind it.
    """
    if HALVING:
        lane = tl.arange(0, 32)
        total = sum_halving(dB, dC, lane, BLOCK_S)
        s = (lane & 8) // 8 + (lane & 4) // 2 + (lane & 2) * 2 + (lane & 1) * 8
        where = to + tl.where(lane < 16, 0, apart) + s
        tl.store(where, total, mask=here & (s < STATES))
    else:
        PARTS: tl.constexpr = len(dB)
        for p in tl.static_range(PARTS):
            s = tl.arange(0, BLOCK_S // PARTS) * PARTS + p
            mask = here & (s < STATES)
            tl.store(to + s, tl.sum(dB[p], axis=0), mask=mask)
            tl.store(to + apart + s, tl.sum(dC[p], axis=0), mask=mask)

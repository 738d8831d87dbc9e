"""How the Triton scan is cut into programs: static guess, autotuning."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

EVERY = 32  # steps between two saved states; a chunk is a multiple
MIN_STEPS = 64  # a shorter chunk is not worth what its carry costs
MAX_CHUNKS = 64  # every chunk adds up all that come before it
# four warps on each of a multiprocessor's four schedulers hide latencies
LANES_PER_CORE = 4 * 4 * 32
CORES = 132  # where there is no GPU to ask: an H100's
MAX_STATES = 256
ENV_TUNE = 'MMSCOPE_TRITON_AUTOTUNE'


class Config(NamedTuple):
    """How a pass is cut.

    Args:
        block_d: Channels of a program.
        steps: Tokens of a chunk, a multiple of ``EVERY``.
        unroll: Steps whose loads are in flight together; for the backward
            pass also the steps whose states are kept in registers.
        num_warps: Of a program: one holds 32 channels of 16 states.
    """

    block_d: int
    steps: int
    unroll: int
    num_warps: int


@lru_cache
def wanted_lanes(device: torch.device) -> int:
    """Channels in flight that fill a GPU."""
    if device.type != 'cuda':
        return CORES * LANES_PER_CORE
    properties = torch.cuda.get_device_properties(device)
    return properties.multi_processor_count * LANES_PER_CORE


def cut(length: int, chunks: int) -> int:
    """Steps of a chunk when cutting a sequence in about ``chunks``."""
    steps = triton.cdiv(length, max(1, min(chunks, MAX_CHUNKS)))
    return triton.cdiv(max(steps, MIN_STEPS), EVERY) * EVERY


def static_config(u: Tensor, states: int, backward: bool) -> Config:
    """A good guess, from sizes alone: safe while a graph is captured.

    Args:
        u: (G, B, L, Dim).
        states: S.
        backward: Which pass it is for.
    """
    groups, batch, length, dim = u.shape
    lanes, wanted = groups * batch * dim, wanted_lanes(u.device)
    # two channels a lane share the reads of B and C; not worth idle lanes,
    # and the backward pass has no registers left for it
    wide = not backward and dim % 64 == 0 and lanes >= 4 * wanted
    # a chunked scan computes every decay twice: only for twice the lanes
    chunks = wanted // lanes if 2 * lanes <= wanted else 1
    num_warps = min(8, max(1, triton.next_power_of_2(states) // 16))
    # more steps at once would spill in the backward pass: see Config.unroll
    unroll = 2 if backward else 4
    return Config(64 if wide else 32, cut(length, chunks), unroll, num_warps)


def candidates(u: Tensor, states: int, backward: bool) -> list[Config]:
    """What autotuning tries; the static choice is the first."""
    static = static_config(u, states, backward)
    length, dim = u.shape[2:]
    cuts = {cut(length, n) for n in (1, 2, 4, 8, 16, 32, 64)}
    blocks = [n for n in (32, 64, 128) if n == 32 or n <= dim]
    tried = [
        Config(block_d, steps, unroll, num_warps)
        for block_d in (blocks[:2] if backward else blocks)
        for steps in sorted(cuts)
        for unroll in ((1, 2, 4) if backward else (4, 8))
        for num_warps in sorted({static.num_warps, 2 * static.num_warps})
    ]
    return [static, *(config for config in tried if config != static)]


_TUNED: dict[tuple, Config] = {}


def choose(
    u: Tensor, states: int, backward: bool, run: Callable[[Config], Any]
) -> Config:
    """The static configuration, or the fastest where tuning is asked for.

    Tuning happens once per kind of GPU, dtype and size (batch and length
    rounded up to powers of two), and never while a CUDA graph is captured:
    warm up first.
    """
    static = static_config(u, states, backward)
    if os.environ.get(ENV_TUNE) != '1' or not u.is_cuda:
        return static
    groups, batch, length, dim = u.shape
    sizes = groups, *map(triton.next_power_of_2, (batch, length)), dim, states
    key = backward, torch.cuda.get_device_name(u.device), u.dtype, *sizes
    if key not in _TUNED:
        if torch.cuda.is_current_stream_capturing():
            return static
        _TUNED[key] = fastest(candidates(u, states, backward), run)
    # the same length class, but not the same length
    return _TUNED[key]


def fastest(
    configs: list[Config], run: Callable[[Config], Any]
) -> Config:  # pragma: no cover - needs a GPU
    """Time every configuration, in milliseconds."""
    times = {
        config: triton.testing.do_bench(
            lambda config=config: run(config),
            warmup=5,
            rep=20,
            return_mode='median',
        )
        for config in configs
    }
    return min(times, key=times.get)

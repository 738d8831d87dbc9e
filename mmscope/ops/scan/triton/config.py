"""How the Triton scan is cut into programs: static guess, autotuning."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

logger = logging.getLogger('mmscope')

EVERY = 32  # steps between two saved states; a chunk is a multiple
MIN_STEPS = 64  # a shorter chunk is not worth what its carry costs
MAX_CHUNKS = 64  # every chunk adds up all that come before it
# three warps on each of a multiprocessor's four schedulers are what there are
# registers for, in either pass
LANES_PER_CORE = 3 * 4 * 32
CORES = 132  # where there is no GPU to ask: an H100's
MAX_STATES = 256
ENV_TUNE = 'MMSCOPE_TRITON_AUTOTUNE'
# steps at a time, and the registers of a lane that they are worth: of a
# forward pass, of one that keeps states, and of the backward pass
INFERENCE = {2: 168, 4: 255}
TRAINING = {1: 168, 2: 255}
BACKWARD = {1: 168, 2: 255}


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up: Triton's takes ten times as long."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << (n - 1).bit_length()


class Config(NamedTuple):
    """How a pass is cut.

    Args:
        block_d: Channels of a program.
        chunks: Parts that a sequence is cut in, about: see ``cut``.
        unroll: Steps that are read ahead; for the backward pass those whose
            states are kept in registers.
        num_warps: Warps of a program: one holds 32 channels of 16 states.
        registers: Registers of a lane, at most.
    """

    block_d: int
    chunks: int
    unroll: int
    num_warps: int
    registers: int


@lru_cache
def wanted_lanes(device: torch.device) -> int:
    """Channels in flight that fill a GPU."""
    if device.type != 'cuda':
        return CORES * LANES_PER_CORE
    properties = torch.cuda.get_device_properties(device)
    return properties.multi_processor_count * LANES_PER_CORE


def cut(length: int, chunks: int) -> int:
    """Steps of a chunk when cutting a sequence in about ``chunks``."""
    steps = cdiv(length, max(1, min(chunks, MAX_CHUNKS)))
    return cdiv(max(steps, MIN_STEPS), EVERY) * EVERY


def static_config(
    u: Tensor, states: int, backward: bool, save: bool = False
) -> Config:
    """A good guess, from sizes alone: safe while a graph is captured.

    Args:
        u: (G, B, L, Dim).
        states: S.
        backward: Which pass it is for.
        save: Whether the forward pass keeps states for the other.
    """
    groups, batch, _, dim = u.shape
    lanes, wanted = groups * batch * dim, wanted_lanes(u.device)
    # a chunked scan computes every decay twice: only for twice the lanes
    chunks = wanted // lanes if 2 * lanes <= wanted else 1
    num_warps = min(8, max(1, next_power_of_2(states) // 16))
    # the fewest steps at a time are the registers of three warps
    unroll, registers = next(iter(_registers(backward, save).items()))
    return Config(32, chunks, unroll, num_warps, registers)


def _registers(backward: bool, save: bool) -> dict[int, int]:
    return BACKWARD if backward else TRAINING if save else INFERENCE


def candidates(
    u: Tensor, states: int, backward: bool, save: bool = False
) -> list[Config]:
    """What autotuning tries; the static choice is the first."""
    static = static_config(u, states, backward, save)
    length = u.shape[2]
    cuts = {cut(length, n): n for n in (64, 32, 16, 8, 4, 2, 1)}
    tried = [
        Config(32, chunks, unroll, static.num_warps, registers)
        for unroll, registers in _registers(backward, save).items()
        for chunks in sorted(cuts.values())
    ]
    return [static, *(config for config in tried if config != static)]


_TUNED: dict[tuple, Config] = {}


def choose(
    u: Tensor,
    states: int,
    backward: bool,
    save: bool,
    run: Callable[[Config], Any],
) -> Config:
    """The static configuration, or the fastest where tuning is asked for.

    Tuning happens once per kind of GPU, dtype and size (batch and length
    rounded up to powers of two), and never while a CUDA graph is captured:
    warm up first.
    """
    static = static_config(u, states, backward, save)
    if os.environ.get(ENV_TUNE) != '1' or not u.is_cuda:
        return static
    groups, batch, length, dim = u.shape
    sizes = groups, *map(next_power_of_2, (batch, length)), dim, states
    key = backward, save, torch.cuda.get_device_name(u.device), u.dtype, *sizes
    if key not in _TUNED:
        if torch.cuda.is_current_stream_capturing():
            return static
        _TUNED[key] = fastest(candidates(u, states, backward, save), run)
    return _TUNED[key]


def fastest(configs: list[Config], run: Callable[[Config], Any]) -> Config:
    """The configuration of the least time; the first if none runs."""
    times = {}
    for config in configs:
        try:
            times[config] = milliseconds(partial(run, config))
        except Exception as error:  # Triton's errors have no common base
            logger.warning('%s is left out of tuning: %s', config, error)
    return min(times, key=times.get, default=configs[0])


def milliseconds(
    run: Callable[[], Any],
) -> float:  # pragma: no cover - needs a GPU
    """Median time of a call."""
    return triton.testing.do_bench(run, warmup=5, rep=20, return_mode='median')

"""Times taken in turns, on the CPU and on GPUs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

T = TypeVar('T')
# one call, or the parts of one, each timed by itself
Job = Callable[[], object] | Sequence[Callable[[], object]]
Stopwatch = Callable[[Callable[[], object]], float]

MAX_CALLS = 10
# of a turn, unless MAX_CALLS are faster; a GPU is hardly disturbed
TURN_SECONDS = dict(cpu=0.1, cuda=0.02)


@dataclass(frozen=True)
class Timing:
    """Milliseconds that one job took, over all its turns.

    Attributes:
        median: Median.
        minimum: The fastest call, least disturbed by other programs.
        spread: Between the first and the third quartile.
        calls: Number of calls.
        p50: Median of the parts of a call; of the call if it has none.
        p99: What 99 of 100 parts stay below, interpolated.
    """

    median: float
    minimum: float
    spread: float
    calls: int
    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: list[float], parts: list[float] | None = None):
        """Sum up the seconds of single calls.

        Args:
            seconds: Duration of each call.
            parts: Duration of each part of all calls; default the calls.
        """
        parts = seconds if parts is None else parts
        quartiles = _quantiles(seconds, 4)
        return cls(
            1e3 * statistics.median(seconds),
            1e3 * min(seconds),
            1e3 * (quartiles[2] - quartiles[0]),
            len(seconds),
            1e3 * statistics.median(parts),
            1e3 * _quantiles(parts, 100)[98],
        )


def _quantiles(seconds: list[float], number: int) -> list[float]:
    if len(seconds) == 1:
        return seconds * (number - 1)
    return statistics.quantiles(seconds, n=number, method='inclusive')


def wall_seconds(job: Callable[[], object]) -> float:
    """Time one call by the clock."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def thread_seconds(job: Callable[[], object]) -> float:
    """Time one call by what this thread got of the CPU."""
    start = time.thread_time()
    job()
    return time.thread_time() - start


def cuda_seconds(device: str, job: Callable[[], object]) -> float:
    """Time one call by events in the current stream of a GPU."""
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        job()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def stopwatch(device: str, cpu_time: bool = False) -> Stopwatch:
    """What times a call on a device.

    Args:
        device: Device that it runs on.
        cpu_time: Whether time counts in which this thread had the CPU, which
            is right for torch on one thread and hardly disturbed by others.

    Raises:
        ValueError: ``cpu_time`` on a GPU, or with several threads.
    """
    if cpu_time:
        threads = torch.get_num_threads()
        if torch.device(device).type != 'cpu' or threads > 1:
            raise ValueError(
                'time of the CPU is that of one thread on a CPU, got '
                f'{threads} threads on {device!r}; use --threads 1'
            )
        return thread_seconds
    if torch.device(device).type == 'cuda':
        return partial(cuda_seconds, device)
    return wall_seconds


def time_in_turns(
    jobs: Mapping[T, Job],
    repeats: int,
    device: str = 'cpu',
    step: Callable[[], None] = lambda: None,
    fatal: tuple[type[Exception], ...] = (),
    cpu_time: bool = False,
) -> dict[T, Timing | str]:
    """Time jobs in turns, so that a busy machine slows all of them alike.

    Each job is called once untimed, for what is compiled or tuned at the
    first call, and warmed up. A turn of a fast job is several calls, and the
    first of them is not counted: what ran before has emptied the caches.

    Args:
        jobs: What to call, by name.
        repeats: Turns of each job.
        device: Device of the jobs; the clock is :func:`stopwatch`'s.
        step: Called after each turn.
        fatal: Errors that end the measurement instead of failing their job.
        cpu_time: See :func:`stopwatch`.

    Returns:
        By name; the error's text where a job failed in its warm-up.
    """
    if repeats < 1:
        raise ValueError(f'repeats must be at least 1, got {repeats}')
    seconds = stopwatch(device, cpu_time)
    turn_seconds = TURN_SECONDS[torch.device(device).type]
    calls, times, failed = {}, {}, {}
    for name, job in jobs.items():
        try:
            calls[name] = _warm_up(_parts_of(job), seconds, turn_seconds)
            times[name] = []
        except fatal:
            raise
        # a kernel that does not compile is no RuntimeError
        except Exception as error:
            first_line = str(error).split('\n')[0]
            failed[name] = f'{type(error).__name__}: {first_line}'
    for _ in range(repeats):
        for name, count in calls.items():
            parts = _parts_of(jobs[name])
            turn = [[seconds(p) for p in parts] for _ in range(count)]
            times[name] += turn[1:] or turn
            step()
    timings = {
        name: Timing.of([sum(call) for call in all_of], sum(all_of, []))
        for name, all_of in times.items()
    }
    return {name: (failed | timings)[name] for name in jobs}


def _parts_of(job: Job) -> Sequence[Callable[[], object]]:
    return (job,) if callable(job) else job


def _warm_up(
    parts: Sequence[Callable[[], object]],
    seconds: Stopwatch,
    turn_seconds: float,
) -> int:
    """Return how many calls make one turn, the uncounted one included."""
    for part in parts:
        part()
    for _ in range(3):
        last = sum(seconds(part) for part in parts)
        if last > turn_seconds:
            return 1
    return 1 + min(MAX_CALLS, int(turn_seconds / last))


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let torch use so many threads inside the ``with`` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""Times taken in turns, peak memory, and where both were measured."""

from __future__ import annotations

import ctypes
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar('T')

MAX_CALLS = 10
MIN_SECONDS = 0.1  # of a turn, unless MAX_CALLS are faster
MIB = 2**20
# what processes that measure memory would else import one by one
PRELOAD = ['benchmarks.backbone_bench', 'benchmarks.scan_cases']


@dataclass(frozen=True)
class Timing:
    """Milliseconds that one job took, over all its turns.

    Attributes:
        median: Median.
        minimum: The fastest call, least disturbed by other programs.
        spread: Between the first and the third quartile.
        calls: Number of calls.
    """

    median: float
    minimum: float
    spread: float
    calls: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Sum up the seconds of single calls."""
        first, _, third = (
            statistics.quantiles(seconds, n=4, method='inclusive')
            if len(seconds) > 1
            else seconds * 3
        )
        return cls(
            1e3 * statistics.median(seconds),
            1e3 * min(seconds),
            1e3 * (third - first),
            len(seconds),
        )


def wall_seconds(job: Callable[[], object]) -> float:
    """Time one call by the clock."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def cuda_seconds(job: Callable[[], object]) -> float:
    """Time one call on the current GPU, by events in its stream."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    job()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def stopwatch(device: str) -> Callable[[Callable[[], object]], float]:
    """What times a call on a device."""
    return cuda_seconds if device.startswith('cuda') else wall_seconds


def time_in_turns(
    jobs: Mapping[T, Callable[[], object]],
    repeats: int,
    seconds: Callable[[Callable[[], object]], float] = wall_seconds,
    step: Callable[[], None] = lambda: None,
) -> dict[T, Timing | str]:
    """Time jobs in turns, so that a busy machine slows all of them alike.

    Each job is warmed up first. A turn of a fast job is several calls, and
    the first of them is not counted: what ran before has emptied the caches.

    Args:
        jobs: What to call, by name.
        repeats: Turns of each job.
        seconds: Times one call, see :func:`stopwatch`.
        step: Called after each turn.

    Returns:
        By name; the error's text where a job failed in its warm-up.
    """
    if repeats < 1:
        raise ValueError(f'repeats must be at least 1, got {repeats}')
    calls, times, failed = {}, {}, {}
    for name, job in jobs.items():
        try:
            calls[name] = _warm_up(job, seconds)
            times[name] = []
        except RuntimeError as error:
            first_line = str(error).split('\n')[0]
            failed[name] = f'{type(error).__name__}: {first_line}'
    for _ in range(repeats):
        for name, count in calls.items():
            turn = [seconds(jobs[name]) for _ in range(count)]
            times[name] += turn[1:] or turn
            step()
    timings = {name: Timing.of(all_of) for name, all_of in times.items()}
    return {name: (failed | timings)[name] for name in jobs}


def _warm_up(
    job: Callable[[], object], seconds: Callable[[Callable], float]
) -> int:
    """Return how many calls make one turn, the uncounted one included."""
    for _ in range(3):
        last = seconds(job)
        if last > MIN_SECONDS:
            return 1
    return 1 + min(MAX_CALLS, int(MIN_SECONDS / last))


def peak_growth(
    prepare: Callable[..., Callable[[], object]], *args: object
) -> float | None:
    """Peak resident memory of one call, above what was there before it.

    In a process of its own, forked from one that has only imported modules.
    Before the call, free memory is handed back and the kernel's mark of the
    peak is reset, so that neither imports nor inputs count; what the call
    returns does. Huge pages, where they are on, round up to 2 MiB.

    Args:
        prepare: Function of a module, which returns the call. It should warm
            up on something small: libraries and threads take memory as well.
        args: For ``prepare``.

    Returns:
        MiB, or None where the system is not Linux.

    Raises:
        RuntimeError: the process failed.
    """
    if sys.platform != 'linux':
        return None
    context = get_context('forkserver')
    context.set_forkserver_preload(PRELOAD)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_measure_growth, args=(sender, prepare, args)
    )
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            'the process that measures memory ended with exit code '
            f'{process.exitcode} (-9: out of memory)'
        ) from None
    finally:
        process.join()


def _measure_growth(
    sender: Connection, prepare: Callable, args: tuple
) -> None:
    sender.send(growth_here(prepare(*args)))


def growth_here(job: Callable[[], object]) -> float:
    """Peak memory of one call, in MiB, above what this process has.

    Only on Linux. See :func:`peak_growth`, which is not disturbed by what
    ran before, and slower.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, 'malloc_trim'):
        libc.malloc_trim(0)
    before = _status('VmRSS')
    Path('/proc/self/clear_refs').write_text('5')  # VmHWM starts anew
    result = job()
    peak = _status('VmHWM')
    del result
    return (peak - before) / 1024


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let torch use so many threads inside the ``with`` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _status(key: str) -> int:
    """Return a line of the process's status, in KiB."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{key}:'):
            return int(line.split()[1])
    raise RuntimeError(f'/proc/self/status has no {key}')


def check_device(device: str) -> None:
    """Raise ValueError unless it is the CPU, or a GPU that torch finds."""
    kind = device.partition(':')[0]
    if kind not in ('cpu', 'cuda'):
        raise ValueError(f"device must be 'cpu' or 'cuda', got {device!r}")
    if kind == 'cuda' and not torch.cuda.is_available():
        raise ValueError(
            f'device {device!r} needs a GPU, and torch finds none; '
            "choose device 'cpu'"
        )


def device_name(device: str) -> str:
    """Name of the processor or GPU, without that of the machine."""
    if torch.device(device).type == 'cuda':
        return torch.cuda.get_device_name(device)
    facts = {}
    if Path('/proc/cpuinfo').exists():
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            key, _, value = line.partition(':')
            facts.setdefault(key.strip(), value.strip())
    name = facts.get('model name', platform.processor() or 'CPU')
    if 'cpu family' in facts:
        name += f' (family {facts["cpu family"]}, model {facts["model"]})'
    return f'{name}, {os.cpu_count()} cores'


def git_revision() -> str | None:
    """Commit of this checkout, '-dirty' where files differ from it."""
    try:
        return subprocess.run(
            ['git', 'describe', '--always', '--dirty', '--exclude=*'],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def environment(device: str, packages: tuple[str, ...] = ()) -> dict:
    """What a reader must know to judge the numbers.

    Args:
        device: Where they were measured.
        packages: Distributions whose versions matter, besides torch.
    """
    check_device(device)
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return dict(
        device=device_name(device),
        torch=torch.__version__,
        python=platform.python_version(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        git_revision=git_revision(),
        load_average=list(os.getloadavg()),
        date=date.today().isoformat(),
        glibc_tunables=os.environ.get('GLIBC_TUNABLES'),
        packages=versions,
    )

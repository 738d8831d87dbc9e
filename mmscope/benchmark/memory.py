"""Peak memory of one call, on the CPU and on GPUs."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch

MIB = 2**20
ON_LINUX = sys.platform == 'linux'


def peak_memory(job: Callable[[], object], device: str) -> float | None:
    """Peak memory of one call above what there was before it, MiB.

    On a GPU what torch's allocator handed out; on the CPU resident memory,
    None where the system is not Linux.
    """
    if torch.device(device).type == 'cuda':
        return cuda_growth(job, device)
    return growth_here(job) if ON_LINUX else None


def cuda_growth(job: Callable[[], object], device: str) -> float:
    """Peak memory of one call on a GPU, in MiB, above what was allocated."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with torch.cuda.device(device):
        job()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / MIB


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
        args: Arguments of ``prepare``.

    Returns:
        MiB, or None where the system is not Linux.

    Raises:
        RuntimeError: the process failed.
    """
    if not ON_LINUX:
        return None
    context = get_context('forkserver')
    # what each such process would else import
    context.set_forkserver_preload([prepare.__module__])
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


def _status(key: str) -> int:
    """Return a line of the process's status, in KiB."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{key}:'):
            return int(line.split()[1])
    raise RuntimeError(f'/proc/self/status has no {key}')

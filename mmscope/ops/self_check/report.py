"""The table of ``python -m mmscope.ops``: every backend, tried here."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import groupby

import torch

from .. import triton_check
from ..backends import BACKENDS, ScanBackend
from .cache import cache_folder, remember
from .probes import DTYPES, OPERATORS, TOLERANCE
from .run import Check, Verdict, examine_apart

WIDTHS = dict(
    operator=8,
    backend=9,
    dtype=8,
    error=7,
    allowed=7,
    forward=10,
    training=10,
    verdict=0,
)


def devices() -> list[str]:
    """The current GPU if there is one, and the CPU."""
    if not torch.cuda.is_available():
        return ['cpu']
    return [f'cuda:{torch.cuda.current_device()}', 'cpu']


def rows() -> Iterator[tuple[str, ScanBackend]]:
    """Operators, each with the backends that could run it somewhere."""
    for operator in OPERATORS:
        for backend in BACKENDS:
            # to the other operators, the reference is plain torch as well
            plain = backend.name == 'torch'
            if operator == 'scan' or backend.kernels or plain:
                yield operator, backend


def _why_not(backend: ScanBackend, device: str) -> str | None:
    return backend.why_not(torch.empty(0, device=device))


def checks_of(device: str) -> list[Check]:
    """Every check that can run on a device, by backend."""
    return [
        Check(operator, backend.name, str(dtype)[6:], device)
        for operator, backend in rows()
        if _why_not(backend, device) is None
        for dtype in DTYPES
    ]


def jobs_of(checks: Sequence[Check]) -> list[list[Check]]:
    """What one process does: a backend, or one check where kernels compile."""
    compiled = {backend.name for backend in BACKENDS if backend.gpu}

    def job(check: Check) -> tuple[str, ...]:
        alone = check.device != 'cpu' and check.backend in compiled
        return (check.backend, *check) if alone else (check.backend,)

    ordered = sorted(checks, key=job)
    return [list(group) for _, group in groupby(ordered, job)]


def run(
    checks: Sequence[Check], seconds: float
) -> Iterator[tuple[Check, Verdict]]:
    """Run checks in processes, keep the verdicts on GPUs; as they end.

    Args:
        checks: All on one device.
        seconds: What each check may take.
    """
    jobs = jobs_of(checks)
    # on a CPU, in turns: they would slow each other down
    alone = not jobs or jobs[0][0].device == 'cpu'
    workers = 1 if alone else min(len(jobs), os.cpu_count() or 1, 16)
    with tempfile.TemporaryDirectory() as folder:
        lock = os.path.join(folder, 'turn')

        def work(job: list[Check]) -> list[Verdict]:
            try:
                return examine_apart(job, True, lock, seconds)
            except OSError as error:
                return [Verdict(str(error), final=False)] * len(job)

        with ThreadPoolExecutor(workers) as pool:
            running = {pool.submit(work, job): job for job in jobs}
            for done in as_completed(running):
                pairs = zip(running[done], done.result(), strict=True)
                for check, verdict in pairs:
                    if check.device != 'cpu':
                        remember(check, verdict)
                    yield check, verdict


def _line(*cells: str) -> str:
    columns = zip(cells, WIDTHS.values(), strict=True)
    return ' '.join(cell.ljust(width) for cell, width in columns)


def line_of(check: Check, verdict: Verdict) -> str:
    """A row of the table."""
    allowed = f'{TOLERANCE[getattr(torch, check.dtype)]:.0e}'
    if verdict.reason:
        kind = 'REFUSED' if verdict.final else 'not checked'
        reason = f'{kind}: {verdict.reason}'
        return _line(*check[:3], '', allowed, '', '', reason)
    times = (f'{ms:.3g} ms' for ms in verdict.speed)
    return _line(*check[:3], f'{verdict.error:.1e}', allowed, *times, 'right')


def report(device: str, seconds: float) -> Iterator[str]:
    """Lines for every operator and backend, as their checks end.

    Args:
        device: Name of the device.
        seconds: What each check may take.

    Returns:
        The lines; 'REFUSED' is in that of a backend that is wrong.
    """
    yield describe(device)
    yield _line(*WIDTHS)
    for operator, backend in rows():
        if reason := _why_not(backend, device):
            blank = (operator, backend.name, *[''] * 5)
            yield _line(*blank, f'not here: {reason}')
    for check, verdict in run(checks_of(device), seconds):
        yield line_of(check, verdict)
    yield ''


def describe(device: str) -> str:
    """A device and the versions that its kernels depend on."""
    name = platform.processor() or platform.machine()
    if device != 'cpu':
        name = torch.cuda.get_device_name(device)
    triton = triton_check.VERSION or 'not installed'
    return f'{device}: {name}, torch {torch.__version__}, triton {triton}'


def main(arguments: Sequence[str] | None = None) -> int:
    """Check everything and write the table; 1 if a backend is wrong."""
    parser = argparse.ArgumentParser(
        prog='python -m mmscope.ops',
        description='Compare every backend of the operators with the '
        "reference on this machine, and time it. 'auto' goes by the verdicts "
        'on GPUs, which are kept.',
    )
    parser.add_argument(
        '--devices', nargs='+', default=devices(), metavar='DEVICE'
    )
    parser.add_argument(
        '--seconds',
        type=float,
        default=60.0,
        help='what each check may take (default: 60)',
    )
    given = parser.parse_args(arguments)
    wrong = False
    for device in given.devices:
        for line in report(device, given.seconds):
            sys.stdout.write(f'{line}\n')
            sys.stdout.flush()
            wrong |= 'REFUSED: ' in line
    sys.stdout.write(
        'error: the largest of outputs and gradients, relative to the '
        'largest entry of its tensor.\nforward, training: without and with '
        'gradients; on a CPU, on one thread.\n'
        f'verdicts on GPUs are kept in {cache_folder()}\n'
    )
    return int(wrong)

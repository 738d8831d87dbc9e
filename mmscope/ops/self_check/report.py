"""The table of ``python -m mmscope.ops``: every backend, tried here."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import torch

from .. import triton_check
from ..backends import BACKENDS, ScanBackend
from .cache import cache_folder, remember
from .probes import DTYPES, OPERATORS, TOLERANCE
from .run import Check, Verdict, examine_apart

HEADER = ('operator', 'backend', 'dtype', 'error', 'allowed')
HEADER += ('forward', 'training', 'verdict')


def devices() -> list[str]:
    """The CPU, and the current GPU if there is one."""
    if not torch.cuda.is_available():
        return ['cpu']
    return ['cpu', f'cuda:{torch.cuda.current_device()}']


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


def run(checks: Sequence[Check], seconds: float) -> dict[Check, Verdict]:
    """Run checks in several processes, and keep the verdicts on GPUs.

    Args:
        checks: All on one device.
        seconds: What each check may take.
    """
    jobs = jobs_of(checks)
    workers = max(1, min(len(jobs), (os.cpu_count() or 1) - 1, 16))
    with tempfile.TemporaryDirectory() as folder:
        lock = os.path.join(folder, 'turn')

        def work(job: list[Check]) -> list[Verdict]:
            try:
                return examine_apart(job, True, lock, seconds)
            except OSError as error:
                return [Verdict(str(error), final=False)] * len(job)

        with ThreadPoolExecutor(workers) as pool:
            answers = list(pool.map(work, jobs))
    verdicts = {
        check: verdict
        for job, part in zip(jobs, answers, strict=True)
        for check, verdict in zip(job, part, strict=True)
    }
    for check, verdict in verdicts.items():
        if check.device != 'cpu':
            remember(check, verdict)
    return verdicts


def _cells(check: Check, verdict: Verdict) -> tuple[str, ...]:
    allowed = f'{TOLERANCE[getattr(torch, check.dtype)]:.0e}'
    if verdict.reason:
        kind = 'REFUSED' if verdict.final else 'not checked'
        return (*check[:3], '', allowed, '', '', f'{kind}: {verdict.reason}')
    forward, training = (f'{ms:.3g} ms' for ms in verdict.speed)
    error = f'{verdict.error:.1e}'
    return (*check[:3], error, allowed, forward, training, 'right')


def table(device: str, verdicts: dict[Check, Verdict]) -> list[str]:
    """Lines for every operator and backend."""
    lines = [HEADER]
    for operator, backend in rows():
        if reason := _why_not(backend, device):
            blank = (operator, backend.name, *[''] * 5)
            lines.append((*blank, f'not here: {reason}'))
        lines += [
            _cells(check, verdict)
            for check, verdict in verdicts.items()
            if check[:2] == (operator, backend.name)
        ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[-1] = 0
    return [
        ' '.join(c.ljust(w) for c, w in zip(line, widths, strict=True))
        for line in lines
    ]


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
        sys.stdout.write(f'{describe(device)}\n')
        sys.stdout.flush()
        verdicts = run(checks_of(device), given.seconds)
        sys.stdout.write('\n'.join(table(device, verdicts)) + '\n\n')
        wrong |= any(v.reason and v.final for v in verdicts.values())
    sys.stdout.write(
        'error: the largest of outputs and gradients, relative to the '
        'largest entry of its tensor.\nforward, training: without and with '
        f'gradients.\nverdicts on GPUs are kept in {cache_folder()}\n'
    )
    return int(wrong)

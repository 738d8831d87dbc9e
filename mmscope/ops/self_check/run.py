"""Running checks: in this process, or in one that may crash or hang."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from . import probes

TUNE = 'MMSCOPE_TRITON_AUTOTUNE'  # it would take minutes
SECONDS = 300  # for a check, most of it compiling
# a line of the child's output that is an answer
MARK = 'mmscope self-check: '
PROGRAM = 'from mmscope.ops.self_check.run import child; child()'


class Check(NamedTuple):
    """What is asked.

    Args:
        operator: 'scan', 'conv' or 'norm'.
        backend: Name of the backend that would run it.
        dtype: Dtype of the tokens, as in 'bfloat16'.
        device: Name of the device, as in 'cuda:0'.
    """

    operator: str
    backend: str
    dtype: str
    device: str


class Verdict(NamedTuple):
    """What came out.

    Args:
        reason: Why the backend is refused, None if it is right.
        error: Largest error, relative to the largest entry of its tensor.
        speed: Milliseconds of a forward pass, and of forward and backward.
        final: Whether it would come out alike another time, so that it is
            worth keeping.
    """

    reason: str | None
    error: float | None = None
    speed: tuple[float, float] | None = None
    final: bool = True


def examine(check: Check, timed: bool = False, lock: str = '') -> Verdict:
    """Run a check in this process.

    Args:
        check: What to run.
        timed: Whether to time it as well.
        lock: See :func:`probes.speed`; empty for none.
    """
    operator, backend, dtype, device = check
    given = operator, backend, getattr(torch, dtype), torch.device(device)
    try:
        error = probes.worst_error(*given)
        speed = probes.speed(*given, lock or None) if timed else None
    except torch.cuda.OutOfMemoryError as problem:
        return Verdict(f'no memory to check it: {problem}', final=False)
    # compilers and launches raise what they like: a refusal says what
    except Exception as problem:
        first_line = str(problem).strip().split('\n')[0]
        if isinstance(problem, probes.WrongResultError):
            return Verdict(first_line)
        return Verdict(f'{type(problem).__name__}: {first_line}')
    return Verdict(None, error, speed)


def child() -> None:
    """Answer for the checks in ``sys.argv``, a line each as they end."""
    checks, timed, lock = json.loads(sys.argv[1])
    # where cores are shared, more only wait for each other
    torch.set_num_threads(1)
    for given in checks:
        check = Check(*given)
        torch.ones(1, device=check.device).item()
        _say('ready')
        _say(examine(check, timed, lock))


def _say(answer: Any) -> None:
    # a kernel may have printed half a line
    sys.stdout.write(f'\n{MARK}{json.dumps(answer)}\n')
    sys.stdout.flush()


def _environment() -> dict[str, str]:
    """Of a child: the modules that this process found, and no tuning."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, 'PYTHONPATH': path, TUNE: '0'}


def _ending(done: subprocess.CompletedProcess) -> str:
    """How a child died."""
    last = done.stderr.strip().split('\n')[-1]
    if done.returncode >= 0:
        return f'its check ended with status {done.returncode}: {last}'
    with suppress(ValueError):
        name = signal.Signals(-done.returncode).name
        return f'its check crashed with {name}'
    return f'its check crashed with signal {-done.returncode}'


def examine_apart(
    checks: Sequence[Check],
    timed: bool = False,
    lock: str = '',
    seconds: float = SECONDS,
) -> list[Verdict]:
    """Run checks in a process of their own, which may crash or hang.

    Args:
        checks: What to run, one after the other.
        timed: Whether to time them as well.
        lock: See :func:`probes.speed`; empty for none.
        seconds: What each of them may take.

    Returns:
        One verdict for each; a crash is that of the check that was running,
        and the others start again after it.

    Raises:
        OSError: no process can be started that sees the device.
    """
    argument = json.dumps([checks, timed, lock])
    limit = seconds * len(checks)
    try:
        done = subprocess.run(
            [sys.executable, '-c', PROGRAM, argument],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors='replace',
            timeout=limit,
            env=_environment(),
        )
        died, output = Verdict(_ending(done)), done.stdout
    except subprocess.TimeoutExpired as late:
        reason = f'its check did not end within {limit:.0f} s'
        died = Verdict(reason, final=seconds >= SECONDS)
        output = (late.stdout or b'').decode(errors='replace')
    answers = [
        json.loads(line.removeprefix(MARK))
        for line in output.splitlines()
        if line.startswith(MARK)
    ]
    if not answers:
        raise OSError(died.reason)
    verdicts = [Verdict(*given) for given in answers if given != 'ready']
    if answers[-1] == 'ready':
        verdicts.append(died)
    if rest := checks[len(verdicts) :]:
        verdicts += examine_apart(rest, timed, lock, seconds)
    return verdicts


def examine_once(check: Check) -> Verdict:
    """Run one check, apart if that is possible."""
    if sys.executable and not getattr(sys, 'frozen', False):
        with suppress(OSError):
            return examine_apart([check])[0]
    # a thread of its own has none of the caller's modes
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(examine, check).result()

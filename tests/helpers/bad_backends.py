"""Backends that lie, crash and raise, for a table of backends.

A child process of the self-check installs them as the tests do.
"""

from __future__ import annotations

import os
import signal
import time

from mmscope.ops import backends
from mmscope.ops.scan.reference import reference_scan


class TritonError(Exception):
    """As Triton's: no RuntimeError."""


def honest(inputs, options):
    return reference_scan(inputs, options)


def lies(inputs, options):
    out, score = reference_scan(inputs, options)
    return out * 1.5, score


def lies_in_importance(inputs, options):
    out, score = reference_scan(inputs, options)
    return out, None if score is None else score + 1


def lies_in_gradients(inputs, options):
    frozen = inputs._replace(C=inputs.C.detach())
    out, score = reference_scan(frozen, options)
    return out + 0 * inputs.C.sum(), score


def lies_past_a_chunk(inputs, options):
    out, score = reference_scan(inputs, options)
    out = out.clone()
    out[..., 64:, :] = 0
    return out, score


def lies_without_gradients(inputs, options):
    out, score = reference_scan(inputs, options)
    return (out if out.requires_grad else 2 * out), score


def tells_nan(inputs, options):
    out, score = reference_scan(inputs, options)
    return out * float('nan'), score


def raises(inputs, options):
    raise TritonError('PassManager::run failed\nat line 3')


def crashes(inputs, options):
    os.kill(os.getpid(), signal.SIGSEGV)


def exits(inputs, options):
    os._exit(3)


def hangs(inputs, options):
    time.sleep(60)


BAD = (
    lies,
    lies_in_importance,
    lies_in_gradients,
    lies_past_a_chunk,
    lies_without_gradients,
    tells_nan,
    raises,
    crashes,
    exits,
    hangs,
)


def rows(*cores):
    """Rows of the table, which have to be checked before use."""
    return tuple(
        backends.ScanBackend(
            core.__name__, lambda u: None, lambda core=core: core, gpu=True
        )
        for core in cores
    )


def install() -> None:
    """Put all of them behind the real backends, by name."""
    backends.BACKENDS += rows(honest, *BAD)

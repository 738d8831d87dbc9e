"""Whether a GPU's kernels compute what they should, asked before first use.

Kernels are compiled on the user's machine, by versions that nobody tried
together. So 'auto' takes a GPU backend only after a short check of that
operator, backend and dtype passed on that kind of device (``probes``). It
runs in a process of its own, where a kernel may crash (``run``), and its
verdict is kept in the user's cache folder (``cache``). A backend asked for by
name is not checked.
"""

from __future__ import annotations

import logging
import os
import threading

import torch
from torch import Tensor

from .cache import only_one, remember, remembered
from .run import Check, examine_once

ENV_SELF_CHECK = 'MMSCOPE_SELF_CHECK'
LOGGER = logging.getLogger('mmscope')

# by what is asked, as text: for other keys torch 2.8 does not compile again
_VERDICTS: dict[str, str | None] = {}
_LOCK = threading.Lock()


def applies(x: Tensor) -> bool:
    """Whether a tensor is one that only a checked backend may read."""
    return x.is_cuda


def _capturing(x: Tensor) -> bool:
    """Whether a CUDA graph is being captured on the tensor's device."""
    if not x.is_cuda:
        return False
    with torch.cuda.device(x.device):
        return torch.cuda.is_current_stream_capturing()


def refusal(operator: str, backend: str, x: Tensor) -> str | None:
    """Why 'auto' may not take a backend, None if it may.

    While torch traces or captures a graph nothing is run: what is known
    decides, and the unknown is trusted.

    Args:
        operator: 'scan', 'conv' or 'norm'.
        backend: Name of the backend that would run it.
        x: Tokens that it would read.
    """
    if not applies(x) or os.environ.get(ENV_SELF_CHECK) == '0':
        return None
    check = Check(operator, backend, str(x.dtype)[6:], str(x.device))
    asked = ' '.join(check)
    if asked in _VERDICTS:
        return _VERDICTS[asked]
    if torch.compiler.is_compiling():
        return None
    if x.is_cuda and not torch.cuda.is_available():  # a fake tensor
        return None
    if _capturing(x):
        known = remembered(check)
        return known.reason if known else None
    with _LOCK:
        if asked not in _VERDICTS:
            _VERDICTS[asked] = _decide(check)
        return _VERDICTS[asked]


def _decide(check: Check) -> str | None:
    """Remember, or run a check; say so once if it refuses."""
    what = f'the {check.backend} {check.operator} in {check.dtype}'
    verdict = remembered(check)
    if verdict is None:
        with only_one(check):
            verdict = remembered(check)  # by another process, meanwhile
            if verdict is None:
                LOGGER.info('checking %s on %s, once', what, check.device)
                verdict = examine_once(check)
                remember(check, verdict)
    if verdict.reason:
        LOGGER.warning(
            '%s is refused on %s: %s; the next backend serves. '
            "'python -m mmscope.ops' checks again; %s=0, or asking for the "
            'backend by name, takes it as it is',
            *(what, check.device, verdict.reason, ENV_SELF_CHECK),
        )
    return verdict.reason

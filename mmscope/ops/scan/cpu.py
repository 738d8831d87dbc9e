"""The scan in C++ on CPU: operators of ``csrc``, built by setup.py."""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module

import torch
from torch import Tensor

from ..forward_mode import refuse_in
from .inputs import Inputs, Options
from .operator import fake_backward, fake_forward, register

CHUNK = 32  # tokens between two saved states; see BackwardScratch in kernels.h
BUILD = "'pip install --no-deps --no-build-isolation -e .' builds it"


def _why_not_built() -> str | None:
    try:
        import_module('mmscope.ops._C')  # this registers the operators
    except ModuleNotFoundError:
        return f'not built: with torch and a C++ compiler, {BUILD}'
    except ImportError as error:
        return f'built for another torch or Python ({error}): {BUILD} again'
    return None


NOT_BUILT = _why_not_built()


@cache
def _say_once(reason: str) -> None:
    logging.getLogger('mmscope').warning(
        'the C++ scan is %s; CPU tensors use slower plain torch', reason
    )


def why_not(u: Tensor) -> str | None:
    """Why a tensor like ``u`` cannot be scanned here, None if it can."""
    if u.device.type != 'cpu':
        return f'it scans CPU tensors only, and u is on {u.device}'
    if NOT_BUILT and not torch.compiler.is_compiling():
        _say_once(NOT_BUILT)
    return NOT_BUILT


if NOT_BUILT is None:
    # here, since that is where csrc/scan.cpp says they are
    torch.library.register_fake('mmscope::scan_forward', fake_forward)
    torch.library.register_fake('mmscope::scan_backward', fake_backward)
    _scan = register('scan')
    refuse_in('scan_forward')


def cpu_scan(inputs: Inputs, options: Options) -> tuple[Tensor, Tensor | None]:
    """Scan in C++; see ``ScanCore``."""
    return _scan(inputs, options, CHUNK)

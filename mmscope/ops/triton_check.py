"""Whether Triton kernels can run, asked without importing Triton."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from contextlib import suppress

import torch
from torch import Tensor

# who ships the module 'triton'
PACKAGES = ('triton', 'pytorch-triton', 'triton-windows')
MINIMUM = (3, 4)  # compiles the kernels as they are; 3.3 does not


def _version() -> str | None:
    """Of the installed Triton; None if there is none."""
    if importlib.util.find_spec('triton') is None:
        return None
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return 'of unknown version'


def _too_old(version: str) -> bool:
    parts = version.split('.')[:2]
    known = len(parts) == 2 and all(part.isdecimal() for part in parts)
    return known and tuple(map(int, parts)) < MINIMUM


VERSION = _version()
FOUND = VERSION is not None
TOO_OLD = FOUND and _too_old(VERSION)


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on CPU tensors too.

    Triton itself reads the variable when a kernel's module is imported.
    """
    return os.environ.get('TRITON_INTERPRET') == '1'


def why_not(u: Tensor) -> str | None:
    """Why the Triton kernels cannot run on a tensor like ``u``."""
    if not FOUND:
        return 'triton is not installed; pip install triton'
    if TOO_OLD:
        return (
            f'triton {VERSION} is too old; it takes triton 3.4, which comes '
            'with torch 2.8'
        )
    if u.dtype == torch.float64:
        return (
            'it computes in float32 and u is float64; '
            "cast u, or choose backend='torch'"
        )
    if not u.is_cuda and not interpreted():
        return (
            f'it needs CUDA tensors and u is on {u.device}; move the model '
            "and its input to a GPU, or choose backend='torch'"
        )
    return None

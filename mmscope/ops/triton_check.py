"""Whether Triton kernels can run, asked without importing Triton."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

FOUND = importlib.util.find_spec('triton') is not None


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on CPU tensors too.

    Triton itself reads the variable when a kernel's module is imported.
    """
    return os.environ.get('TRITON_INTERPRET') == '1'


def why_not(u: Tensor) -> str | None:
    """Why the Triton kernels cannot run on a tensor like ``u``."""
    if not FOUND:
        return 'triton is not installed; pip install triton'
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

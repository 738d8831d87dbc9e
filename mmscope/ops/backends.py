"""The table of backends, and which of them runs: precedence and reasons."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from . import forward_mode, triton_check
from .scan import cpu as cpu_scan
from .scan import mamba_ssm as mamba_ssm_scan
from .scan.inputs import ScanCore
from .scan.reference import reference_scan
from .self_check import refusal

ENV_BACKEND = 'MMSCOPE_SCAN_BACKEND'


class _Forced(threading.local):
    """What ``use_backend`` set in this thread; torch.compile can read it."""

    def __init__(self) -> None:
        self.name: str | None = None


_FORCED = _Forced()


@dataclass(frozen=True)
class ScanBackend:
    """One row of the backend table.

    Args:
        name: What users choose it by.
        why_not: Why it cannot run on a tensor like ``u``, None if it can.
        load: Imports the backend and returns its core.
        kernels: Whether it brings kernels for convolution and norm.
        gpu: Whether it runs kernels on GPUs, which 'auto' checks first.
        differentiable: Whether it is made of torch's own operators, so that
            every kind of derivative exists.
    """

    name: str
    why_not: Callable[[Tensor], str | None]
    load: Callable[[], ScanCore]
    kernels: bool = False
    gpu: bool = False
    differentiable: bool = False

    def refusal(self, operator: str, x: Tensor, auto: bool) -> str | None:
        """Why it may not run an operator now, None if it may.

        Args:
            operator: 'scan', 'conv' or 'norm'.
            x: What the operator reads.
            auto: Whether nobody asked for the backend by name.
        """
        if forward_mode.active() and not self.differentiable:
            return forward_mode.REASON
        reason = self.why_not(x)
        if reason is None and auto and self.gpu:
            reason = refusal(operator, self.name, x)
        return reason


def _load_triton() -> ScanCore:
    from .scan.triton.operator import triton_scan

    return triton_scan


def _load_torch() -> ScanCore:
    from .scan.torch import torch_scan

    return torch_scan


# 'auto' takes the first that can run: fastest first
BACKENDS: tuple[ScanBackend, ...] = (
    ScanBackend(
        'cpu', cpu_scan.why_not, lambda: cpu_scan.cpu_scan, kernels=True
    ),
    ScanBackend(
        'triton', triton_check.why_not, _load_triton, kernels=True, gpu=True
    ),
    ScanBackend(
        'mamba_ssm',
        mamba_ssm_scan.why_not,
        lambda: mamba_ssm_scan.mamba_ssm_scan,
        gpu=True,
    ),
    ScanBackend('torch', lambda u: None, _load_torch),
    ScanBackend(
        'reference',
        lambda u: None,
        lambda: reference_scan,
        differentiable=True,
    ),
)


def scan_backends(u: Tensor | None = None) -> dict[str, str | None]:
    """Every backend and why it cannot run on ``u`` (None: it can).

    Args:
        u: Tensor that would be scanned; default a float32 CPU tensor.
    """
    probe = torch.empty(0) if u is None else u
    return {backend.name: backend.why_not(probe) for backend in BACKENDS}


def check_backend(name: str, origin: str) -> None:
    """Raise ValueError unless ``name``, given by ``origin``, is a choice."""
    choices = sorted(['auto', *(backend.name for backend in BACKENDS)])
    if name not in choices:
        raise ValueError(
            f'scan backend must be one of {choices}, got {name!r} ({origin})'
        )


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Scan with backend ``name`` inside the ``with`` block.

    The ``backend`` argument of a call still wins; the block itself wins over
    the environment variable ``MMSCOPE_SCAN_BACKEND``.
    """
    check_backend(name, 'use_backend')
    before, _FORCED.name = _FORCED.name, name
    try:
        yield
    finally:
        _FORCED.name = before


def wanted_backend(backend: str | None) -> str:
    """Argument > use_backend > environment > 'auto'.

    A function compiled by torch keeps what the environment said when it was
    traced.

    Args:
        backend: The argument of a call.
    """
    origin = 'argument backend'
    if backend is None:
        backend, origin = _FORCED.name, 'use_backend'
    if backend is None:
        backend = os.environ.get(ENV_BACKEND) or 'auto'
        origin = f'environment variable {ENV_BACKEND}'
    check_backend(backend, origin)
    return backend


def _pick(
    operator: str, x: Tensor, backend: str | None, kernels: bool
) -> ScanBackend | None:
    """The wanted backend, or the first that can run an operator.

    Args:
        operator: 'scan', 'conv' or 'norm'.
        x: What the operator reads.
        backend: The argument of a call.
        kernels: Whether only those with kernels of their own are meant.

    Raises:
        RuntimeError: it was asked for by name and cannot run.
    """
    name = wanted_backend(backend)
    for candidate in BACKENDS:
        if name not in ('auto', candidate.name):
            continue
        if kernels and not candidate.kernels:
            continue
        reason = candidate.refusal(operator, x, name == 'auto')
        if reason is None:
            return candidate
        if name != 'auto':
            raise RuntimeError(
                f'scan backend {name!r} cannot run here: {reason}'
            )
    return None


def resolve(u: Tensor, backend: str | None) -> ScanCore:
    """Pick the core of the wanted backend, or of the first that can run."""
    found = _pick('scan', u, backend, kernels=False)
    if found is None:
        raise RuntimeError(f'no scan backend can run here: {scan_backends(u)}')
    return found.load()


def layer_kernels(operator: str, x: Tensor, backend: str | None) -> str:
    """Return 'cpu' for C++, 'triton', or 'torch' for plain torch.

    It follows the scan: 'auto' takes the first that can run, 'cpu' and
    'triton' are what they say, every other backend takes plain torch.

    Args:
        operator: 'conv' or 'norm'.
        x: What the operator reads.
        backend: Name of a scan backend; None for what ``use_backend`` or
            the environment say.

    Raises:
        RuntimeError: kernels were asked for by name and cannot run.
    """
    found = _pick(operator, x, backend, kernels=True)
    return 'torch' if found is None else found.name

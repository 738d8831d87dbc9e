"""The one entry to the selective scan: shapes, backends, precedence."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from . import cpu_scan, mamba_ssm_scan, triton_check
from .scan_call import Inputs, Options, ScanCore
from .shapes import CHANNEL_MAJOR, TOKEN_MAJOR, check_inputs

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
    """

    name: str
    why_not: Callable[[Tensor], str | None]
    load: Callable[[], ScanCore]


def _runs_anywhere(u: Tensor) -> str | None:
    return None


def _load_triton() -> ScanCore:
    from .triton_scan import triton_scan

    return triton_scan


def _load_mamba_ssm() -> ScanCore:
    return mamba_ssm_scan.mamba_ssm_scan


def _load_cpu() -> ScanCore:
    return cpu_scan.cpu_scan


def _load_torch() -> ScanCore:
    from .torch_scan import torch_scan

    return torch_scan


def _load_reference() -> ScanCore:
    from .reference import reference_scan

    return reference_scan


# 'auto' takes the first that can run: fastest first
BACKENDS: tuple[ScanBackend, ...] = (
    ScanBackend('cpu', cpu_scan.why_not, _load_cpu),
    ScanBackend('triton', triton_check.why_not, _load_triton),
    ScanBackend('mamba_ssm', mamba_ssm_scan.why_not, _load_mamba_ssm),
    ScanBackend('torch', _runs_anywhere, _load_torch),
    ScanBackend('reference', _runs_anywhere, _load_reference),
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


def _resolve(u: Tensor, backend: str | None) -> ScanCore:
    """Pick the core of the wanted backend, or of the first that can run."""
    name = wanted_backend(backend)
    for candidate in BACKENDS:
        if name not in ('auto', candidate.name):
            continue
        reason = candidate.why_not(u)
        if reason is None:
            return candidate.load()
        if name != 'auto':
            raise RuntimeError(
                f'scan backend {name!r} cannot run here: {reason}'
            )
    raise RuntimeError(f'no scan backend can run here: {scan_backends(u)}')


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Mamba's selective scan in ``mamba_ssm``'s layout.

    Computed in float32 (float64 if ``u`` is), whatever the dtypes.

    Args:
        u: Input, (B, Dim, L).
        delta: Step sizes before bias and softplus, (B, Dim, L).
        A: State matrix, (Dim, S); negative values decay.
        B: Input matrix, (B, S, L).
        C: Output matrix, (B, S, L).
        D: Skip, (Dim,).
        z: Gate, (B, Dim, L); the output is multiplied by silu(z).
        delta_bias: Added to ``delta``, (Dim,).
        delta_softplus: Whether softplus is applied to the step sizes.
        backend: Name from :func:`scan_backends`, or 'auto'.

    Returns:
        (B, Dim, L), dtype of ``u``.
    """
    given = (u, delta, A, B, C, D, z, delta_bias)
    check_inputs(CHANNEL_MAJOR, dict(zip(CHANNEL_MAJOR, given, strict=True)))
    core = _resolve(u, backend)
    u, delta, B, C = (x.mT[None] for x in (u, delta, B, C))
    A, D, delta_bias = (
        x if x is None else x[None] for x in (A, D, delta_bias)
    )
    given = Inputs(
        u, delta, A, B, C, D, None if z is None else z.mT, delta_bias
    )
    out, _ = core(given, Options(delta_softplus, (False,), True, False))
    return out.mT.contiguous()


def bidirectional_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
    importance: bool = False,
    merge: bool = True,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Two selective scans over the same tokens, from either end.

    All tensors are token-major and in original token order, direction first:
    direction 0 scans 0..L-1, direction 1 scans L-1..0. Computed in float32
    (float64 if ``u`` is), whatever the dtypes.

    Args:
        u: Input, (2, B, L, Dim).
        delta: Step sizes before bias and softplus, (2, B, L, Dim).
        A: State matrix, (2, Dim, S); negative values decay.
        B: Input matrix, (2, B, L, S).
        C: Output matrix, (2, B, L, S).
        D: Skip, (2, Dim), added before the gate.
        z: Gate of both directions, (B, L, Dim): silu(z) times the output.
        delta_bias: Added to ``delta``, (2, Dim).
        delta_softplus: Whether softplus is applied to the step sizes.
        importance: Whether to return the tokens' importance as well.
        merge: Whether to return the mean of the two directions.
        backend: Name from :func:`scan_backends`, or 'auto'.

    Returns:
        out of ``u``'s dtype, (B, L, Dim) if ``merge`` else (2, B, L, Dim); or
        (out, importance) where importance (B, L) is float32, detached: the
        softplus of the largest pre-gate output over directions and channels.
    """
    given = (u, delta, A, B, C, D, z, delta_bias)
    check_inputs(TOKEN_MAJOR, dict(zip(TOKEN_MAJOR, given, strict=True)))
    core = _resolve(u, backend)
    options = Options(delta_softplus, (False, True), merge, importance)
    out, score = core(Inputs(*given), options)
    return (out, score) if importance else out

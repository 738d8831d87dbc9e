"""The one entry to the selective scan: shapes, backends, precedence."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from . import cpu_scan, mamba_ssm_scan, triton_check
from .shapes import CHANNEL_MAJOR, TOKEN_MAJOR, check_inputs

ENV_BACKEND = 'MMSCOPE_SCAN_BACKEND'
_FORCED: ContextVar[str | None] = ContextVar('scan_backend', default=None)


class ScanCore(Protocol):
    """What every backend implements, G scans over the same tokens at once.

    ``u, delta`` (G, B, L, Dim); ``A`` (G, Dim, S); ``B, C`` (G, B, L, S);
    ``D, delta_bias`` (G, Dim) or None; ``z`` (B, L, Dim) or None. Scan g
    runs from the last token to the first where ``reverse[g]``. Tensors may
    have any strides, mixed float dtypes and an empty batch.

    Returns (out, importance): out of ``u.dtype``, (B, L, Dim), the mean over
    G, if ``merge``, else (G, B, L, Dim); importance detached, (B, L),
    float32, or None. State, step size and importance are computed in
    ``reference.state_dtype(u)``.
    """

    def __call__(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        delta_softplus: bool,
        reverse: tuple[bool, ...],
        merge: bool,
        importance: bool,
    ) -> tuple[Tensor, Tensor | None]: ...


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


def _check_name(name: str, origin: str) -> None:
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
    _check_name(name, 'use_backend')
    token = _FORCED.set(name)
    try:
        yield
    finally:
        _FORCED.reset(token)


@torch.compiler.assume_constant_result
def _wanted() -> tuple[str, str]:
    """The backend to use unless the call names one, and who says so.

    A compiled function keeps what this was when it was traced.
    """
    if (forced := _FORCED.get()) is not None:
        return forced, 'use_backend'
    return (
        os.environ.get(ENV_BACKEND) or 'auto',
        f'environment variable {ENV_BACKEND}',
    )


def _resolve(u: Tensor, backend: str | None) -> ScanCore:
    """Pick the core: argument > use_backend > environment > 'auto'."""
    name, origin = (
        _wanted() if backend is None else (backend, 'argument backend')
    )
    _check_name(name, origin)
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
    given = (u, delta, A, B, C, D, z if z is None else z.mT, delta_bias)
    out, _ = core(*given, delta_softplus, (False,), True, False)
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
    out, score = core(*given, delta_softplus, (False, True), merge, importance)
    return (out, score) if importance else out

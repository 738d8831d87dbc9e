"""The one entry to the selective scan: shapes, then a backend."""

from __future__ import annotations

from torch import Tensor

from ..backends import resolve
from .inputs import Inputs, Options
from .shapes import CHANNEL_MAJOR, TOKEN_MAJOR, check_inputs


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
    core = resolve(u, backend)
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
    core = resolve(u, backend)
    options = Options(delta_softplus, (False, True), merge, importance)
    out, score = core(Inputs(*given), options)
    return (out, score) if importance else out

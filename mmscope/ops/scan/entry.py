"""The one entry to the selective scan: shapes, then a backend."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..backends import resolve
from .groups import channels_apart, channels_joined, groups_of
from .inputs import Inputs, Options
from .reference import state_dtype
from .shapes import (
    CHANNEL_MAJOR,
    ONE_WAY,
    TOKEN_MAJOR,
    check_channel_major,
    check_inputs,
)
from .states import with_states


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    initial_state: Tensor | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba's selective scan, as ``mamba_ssm``'s ``selective_scan_fn``.

    Arguments, their order and defaults are those of mamba_ssm, so that either
    may stand in for the other. Computed in float32 (float64 if ``u`` is),
    whatever the dtypes; all tensors are real.

    Args:
        u: Input, (B, Dim, L).
        delta: Step sizes before bias and softplus, (B, Dim, L).
        A: State matrix, (Dim, S); negative values decay.
        B: Input matrix: (B, S, L), (B, G, S, L) for G groups of neighbouring
            channels, or (Dim, S) for the same at every token.
        C: Output matrix, in any of the shapes of ``B``.
        D: Skip, (Dim,).
        z: Gate, (B, Dim, L); the output is multiplied by silu(z).
        delta_bias: Added to ``delta``, (Dim,).
        delta_softplus: Whether softplus is applied to the step sizes.
        return_last_state: Whether to return the state after the last token.
        initial_state: State before the first token, (B, Dim, S); default 0.
        backend: Name from :func:`scan_backends`, or 'auto'.

    Returns:
        (B, Dim, L), dtype of ``u``; or that and the last state (B, Dim, S) in
        float32 (float64 if ``u`` is). Both have gradients.

    Raises:
        TypeError: a tensor is not of real floating point numbers.
        ValueError: the shapes or the devices do not agree.
    """
    given = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    check_channel_major(dict(zip(CHANNEL_MAJOR, given, strict=True)))
    core, groups = resolve(u, backend), groups_of(B, C, u.shape[1])
    inputs = channels_apart(Inputs(*given[:8]), groups)
    keeps_state = return_last_state or initial_state is not None
    # a core has one gate for all its groups
    apart = z is not None and (groups > 1 or keeps_state)
    if apart or keeps_state:
        # nothing is rounded before the gate, and states never are
        inputs = inputs._replace(u=inputs.u.to(state_dtype(u)), z=None)
    options = Options(delta_softplus, (False,) * groups, False, False)
    last = None
    if keeps_state:
        out, last = with_states(core, inputs, options, initial_state)
    else:
        out, _ = core(inputs, options)
    out = channels_joined(out)
    if apart:
        out = out * F.silu(z.to(out.dtype))
    out = out.to(u.dtype).contiguous()
    return (out, last) if return_last_state else out


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


def directional_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
    reverse: bool = False,
    backend: str | None = None,
) -> Tensor:
    """One of the two scans of :func:`bidirectional_scan`, without a gate.

    Args:
        u: Input, (B, L, Dim).
        delta: Step sizes before bias and softplus, (B, L, Dim).
        A: State matrix, (Dim, S); negative values decay.
        B: Input matrix, (B, L, S).
        C: Output matrix, (B, L, S).
        D: Skip, (Dim,).
        delta_bias: Added to ``delta``, (Dim,).
        delta_softplus: Whether softplus is applied to the step sizes.
        reverse: Whether it runs from the last token.
        backend: Name from :func:`scan_backends`, or 'auto'.

    Returns:
        (B, L, Dim), dtype of ``u``.

    Raises:
        TypeError: a tensor is not of real floating point numbers.
        ValueError: the shapes or the devices do not agree.
    """
    given = dict(zip(ONE_WAY, (u, delta, A, B, C, D, delta_bias), strict=True))
    check_inputs(ONE_WAY, given)
    whole = {
        name: None if tensor is None else tensor.unsqueeze(0)
        for name, tensor in given.items()
    }
    options = Options(delta_softplus, (reverse,), True, False)
    out, _ = resolve(u, backend)(Inputs(**whole, z=None), options)
    return out

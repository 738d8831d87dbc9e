"""mamba_ssm's layout and the one of ``Inputs``: groups of channels."""

from __future__ import annotations

import math

from torch import Tensor

from .inputs import Inputs


def groups_of(B: Tensor, C: Tensor, dim: int) -> int:
    """In how many groups of channels share both B and C.

    Args:
        B: See :func:`mmscope.ops.selective_scan`.
        C: The same.
        dim: Channels.
    """
    own = {2: dim, 3: 1}  # constant parameters are of a channel each
    return math.lcm(*(own.get(t.dim(), t.shape[1]) for t in (B, C)))


def _tokens_apart(x: Tensor, groups: int) -> Tensor:
    """(B, Dim, L) to (G, B, L, Dim / G)."""
    return x.unflatten(1, (groups, -1)).permute(1, 0, 3, 2)


def _parameters_apart(x: Tensor, like: Tensor, groups: int) -> Tensor:
    """B or C in any of its shapes to (G, B, L, S).

    Args:
        x: The parameter.
        like: u, (B, Dim, L).
        groups: G.
    """
    batch, _, length = like.shape
    if x.dim() == 2:
        return x[:, None, None].expand(-1, batch, length, -1)
    if x.dim() == 3:
        x = x.unsqueeze(1)
    repeats = groups // x.shape[1]
    if repeats > 1:
        x = x.unsqueeze(2).expand(-1, -1, repeats, -1, -1).flatten(1, 2)
    return x.permute(1, 0, 3, 2)


def channels_apart(given: Inputs, groups: int) -> Inputs:
    """The tensors of ``selective_scan`` as those of a core.

    Args:
        given: By the names of ``Inputs``, in mamba_ssm's shapes.
        groups: G.

    Returns:
        Views where that is possible; z is as if there were one group.
    """
    u, delta, A, B, C, D, z, delta_bias = given
    A, D, delta_bias = (
        None if x is None else x.unflatten(0, (groups, -1))
        for x in (A, D, delta_bias)
    )
    return Inputs(
        _tokens_apart(u, groups),
        _tokens_apart(delta, groups),
        A,
        _parameters_apart(B, u, groups),
        _parameters_apart(C, u, groups),
        D,
        None if z is None else z.mT,
        delta_bias,
    )


def channels_joined(y: Tensor) -> Tensor:
    """(G, B, L, Dim / G) to (B, Dim, L)."""
    return y.permute(1, 0, 3, 2).flatten(1, 2)

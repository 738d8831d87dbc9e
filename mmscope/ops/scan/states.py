"""A first and a last state for scans that know neither.

States go in and come out through S extra tokens on either side, so that every
backend serves, with gradients. Token j in front adds to state j only and is
so short that nothing decays; token j behind has no length at all and its
output is state j.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import Inputs, Options, ScanCore

# step size in front: a power of two, so that it divides and multiplies
# exactly; exp(-A * SHORT) is 1
SHORT = 2.0**-60


def _step_sizes(inputs: Inputs, options: Options) -> Tensor:
    """With bias and softplus, in the dtype of the state."""
    dt = inputs.delta.to(inputs.u.dtype)
    if inputs.delta_bias is not None:
        dt = dt + inputs.delta_bias.to(dt.dtype)[:, None, None]
    return F.softplus(dt) if options.delta_softplus else dt


def _one_state_a_token(inputs: Inputs) -> Tensor:
    """(G, B, S, S): token j has a one at state j."""
    groups, batch = inputs.u.shape[:2]
    one = torch.eye(
        inputs.A.shape[-1], dtype=inputs.u.dtype, device=inputs.u.device
    )
    return one.expand(groups, batch, -1, -1)


def with_states(
    core: ScanCore, inputs: Inputs, options: Options, first: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scan from a first state to the last one.

    Args:
        core: The backend.
        inputs: Inputs of a scan without gate, u in the state's dtype.
        options: All forward, not merged, without importance.
        first: State before the first token, (B, Dim, S), or None for 0.

    Returns:
        y (G, B, L, Dim / G), and the last state (B, Dim, S).
    """
    groups, batch, length, dim = inputs.u.shape
    one = _one_state_a_token(inputs)
    states, none = one.shape[-1], torch.zeros_like(one)
    silent = inputs.u.new_zeros(groups, batch, states, dim)
    u = [inputs.u, silent]
    dt = [_step_sizes(inputs, options), silent]
    B, C = [inputs.B.to(one.dtype), none], [inputs.C.to(one.dtype), one]
    if first is not None:
        first = first.to(one.dtype).unflatten(1, (groups, -1))
        u.insert(0, first.permute(1, 0, 3, 2) / SHORT)
        dt.insert(0, torch.full_like(silent, SHORT))
        B.insert(0, one)
        C.insert(0, none)
    joined = (torch.cat(parts, dim=2) for parts in (u, dt, B, C))
    u, dt, B, C = joined
    y, _ = core(
        Inputs(u, dt, inputs.A, B, C, inputs.D, None, None),
        options._replace(delta_softplus=False),
    )
    last = y[:, :, -states:].permute(1, 0, 3, 2).flatten(1, 2)
    return y[:, :, -states - length : -states], last

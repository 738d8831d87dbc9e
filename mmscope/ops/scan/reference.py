"""The sequential selective scan: ground truth for every other backend."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import Inputs, Options


def state_dtype(u: Tensor) -> torch.dtype:
    """The dtype of state and step size: float64 for float64, else float32.

    Every input is cast to it, whatever its own dtype; outputs are cast back
    to the dtype of ``u``, gradients to the dtype of their input.
    """
    return torch.float64 if u.dtype == torch.float64 else torch.float32


def scan_one_direction(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> Tensor:
    """Run ``h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t``, ``y_t = C_t . h_t``.

    Args:
        u: Input, (B, L, Dim).
        dt: Positive step sizes, (B, L, Dim).
        A: State matrix, (Dim, S).
        B: Input matrix, (B, L, S).
        C: Output matrix, (B, L, S).

    Returns:
        y without the D skip, (B, L, Dim).
    """
    h = u.new_zeros(u.shape[0], *A.shape)
    outputs = []
    for t in range(u.shape[1]):
        step = dt[:, t].unsqueeze(-1)
        driven = step * u[:, t].unsqueeze(-1) * B[:, t].unsqueeze(1)
        h = torch.exp(step * A) * h + driven
        outputs.append((h * C[:, t].unsqueeze(1)).sum(-1))
    return torch.stack(outputs, dim=1)


def importance_of(y: Tensor) -> Tensor:
    """Strongest activation of each token, before any gate (Eq. 11).

    Args:
        y: SSM output with the D skip, (G, B, L, Dim).

    Returns:
        Detached, non-negative importance, (B, L), float32.
    """
    # softplus is monotone, so one softplus after the max is enough
    return F.softplus(y.detach().amax(dim=(0, 3))).float()


def reference_scan(
    inputs: Inputs, options: Options
) -> tuple[Tensor, Tensor | None]:
    """Scan token by token; see ``ScanCore``."""
    u, delta, A, B, C, D, z, delta_bias = inputs
    acc = state_dtype(u)
    x, dt = u.to(acc), delta.to(acc)
    if delta_bias is not None:
        dt = dt + delta_bias.to(acc)[:, None, None]
    if options.delta_softplus:
        dt = F.softplus(dt)
    directions = []
    for g, backward in enumerate(options.reverse):
        tokens = [x[g], dt[g], B[g].to(acc), C[g].to(acc)]
        if backward:
            tokens = [t.flip(1) for t in tokens]
        y = scan_one_direction(*tokens[:2], A[g].to(acc), *tokens[2:])
        directions.append(y.flip(1) if backward else y)
    y = torch.stack(directions)
    if D is not None:
        y = y + D.to(acc)[:, None, None] * x
    score = importance_of(y) if options.importance else None
    out = y.mean(dim=0) if options.merge else y
    if z is not None:
        out = out * F.silu(z.to(acc))
    return out.to(u.dtype), score

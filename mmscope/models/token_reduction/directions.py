"""Directions of the scan that run for some of the images."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmscope.ops import (
    bidirectional_conv,
    bidirectional_scan,
    directional_scan,
)

from ..layers import BiMambaMixer, at_least_float32

TEMPERATURE = 2.0


def gumbel_sigmoid(logits: Tensor) -> Tensor:
    """Draw 0 or 1, with the gradients of the odds ("straight through")."""
    # the difference of two Gumbel variables is the logit of a uniform one
    noise = torch.rand_like(logits).logit(eps=1e-6)
    soft = ((logits + noise) / TEMPERATURE).sigmoid()
    return (soft > 0.5).to(soft) + soft - soft.detach()


def mix_masked(
    mixer: BiMambaMixer, projected: Tensor, mask: Tensor, runs: Tensor
) -> Tensor:
    """Run both directions over all images, and leave out what does not run.

    For training, where masks and choices have gradients: tokens that are
    masked enter neither convolution nor scan, and stay zero.

    Args:
        mixer: The mixer.
        projected: Input and gate of its scans, (B, L, 2 * D).
        mask: 1 for tokens that are there, (B, L).
        runs: 1 for directions that an image needs, (B, 2).

    Returns:
        Mixed tokens, (B, L, C).
    """
    inner, gate = projected.chunk(2, dim=-1)
    mask = mask.unsqueeze(-1)
    u = bidirectional_conv(
        inner * mask, mixer.conv_weight, mixer.conv_bias, mixer.backend
    )
    u = u * mask
    delta, B, C = mixer.scan_inputs(u)
    y = bidirectional_scan(
        u,
        delta,
        at_least_float32(mixer.A_log).exp().neg(),
        B,
        C,
        mixer.D,
        delta_bias=mixer.dt_bias,
        merge=False,
        backend=mixer.backend,
    )
    y = (y * runs.T[:, :, None, None]).mean(dim=0) * F.silu(gate)
    return mixer.out_proj(y.to(gate.dtype)) * mask


def mix_by_direction(
    mixer: BiMambaMixer, projected: Tensor, runs: Tensor
) -> Tensor:
    """Run each direction over the images that need it alone.

    Args:
        mixer: The mixer.
        projected: Input and gate of its scans, (B, L, 2 * D).
        runs: Which directions an image needs, (B, 2) bool.

    Returns:
        Mixed tokens, (B, L, C).
    """
    inner, gate = projected.chunk(2, dim=-1)
    y = torch.zeros_like(inner)
    for direction in (0, 1):
        rows = runs[:, direction].nonzero().squeeze(1)
        if not len(rows):
            continue
        u = bidirectional_conv(
            inner[rows], mixer.conv_weight, mixer.conv_bias, mixer.backend
        )[direction]
        low, B, C = F.linear(u, mixer.x_proj[direction]).split(
            [mixer.dt_rank, mixer.d_state, mixer.d_state], dim=-1
        )
        out = directional_scan(
            u,
            F.linear(low, mixer.dt_proj[direction]),
            at_least_float32(mixer.A_log[direction]).exp().neg(),
            B,
            C,
            mixer.D[direction],
            mixer.dt_bias[direction],
            reverse=direction == 1,
            backend=mixer.backend,
        )
        y = y.index_add(0, rows, out)
    return mixer.out_proj(y / 2 * F.silu(gate))

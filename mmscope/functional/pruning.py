"""Keeping the tokens that score best, and what the scan knows of gaps."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def num_kept(ratio: float, num_tokens: int) -> int:
    """Tokens that are kept, an even number, so that CLS is in the middle.

    Args:
        ratio: Share of tokens, CLS among those that are kept, in (0, 1].
        num_tokens: Number of tokens without CLS.
    """
    kept = math.ceil(ratio * num_tokens - 1e-6)
    kept += kept % 2 == 0
    return min(max(kept - 1, 2), num_tokens)


class Gaps(NamedTuple):
    """Where tokens are missing from a sequence that a scan reads.

    Attributes:
        rows: Tokens that others may be missing ahead of, from either end:
            places in all of (2, B, L), none twice, as many of either
            direction, (G,).
        missing: Number of those that are missing ahead of each, (G, 1).
    """

    rows: Tensor
    missing: Tensor


class Bridged(NamedTuple):
    """Inputs of a scan over gaps.

    Attributes:
        delta: Step sizes before bias and softplus, (2, B, L, D).
        u: Inputs, (2, B, L, D).
        less: What the inputs lost, at the tokens of the gaps of each
            direction, (2, G / 2, D).
    """

    delta: Tensor
    u: Tensor
    less: Tensor


def find_gaps(places: Tensor, total: int) -> Gaps:
    """Tokens that others are missing ahead of, from either end.

    As many for every image as can have a gap ahead of them, so that their
    number needs no look at the data; some may have none.

    Args:
        places: Places in the whole sequence of those that are there,
            ascending, (B, L).
        total: Length of the whole sequence.

    Returns:
        Gaps between a token and the one before it, and between it and the
        one behind it; none at the ends, where nothing comes before.
    """
    batch, length = places.shape
    between = places.diff(dim=1) - 1
    missing = torch.stack([F.pad(between, (1, 0)), F.pad(between, (0, 1))])
    most = min(total - length, length - 1)
    missing, tokens = missing.topk(most, dim=-1)
    starts = torch.arange(2 * batch, device=places.device) * length
    rows = tokens + starts.view(2, batch, 1)
    return Gaps(rows.flatten(), missing.view(-1, 1))


def insert_place(places: Tensor, num_ahead: int) -> Tensor:
    """Places with one more token among them, CLS, right behind one of them.

    Args:
        places: Places in raster order of those that are there, (B, N).
        num_ahead: Number of them ahead of CLS.

    Returns:
        Places in the sequence with CLS, (B, N + 1).
    """
    ahead, behind = places[:, :num_ahead], places[:, num_ahead:] + 1
    cls = ahead[:, -1:] + 1 if num_ahead else torch.zeros_like(places[:, :1])
    return torch.cat([ahead, cls, behind], dim=1)


def bridge_gaps(
    delta: Tensor, u: Tensor, gaps: Gaps, delta_bias: Tensor
) -> Bridged:
    """Let states decay over missing tokens, by the inputs of a plain scan.

    A missing token has no input and the step size that the bias alone gives.
    Over a gap of g ahead of token t, states decay by
    exp((delta_t + g * step) * A), and take in delta_t * B_t * u_t. A scan with
    longer steps and smaller inputs does just that, and only the tokens behind
    gaps differ. "Our reading" of HiddenAlign, of which there is neither an
    equation nor code to read.

    Args:
        delta: Step sizes before bias and softplus, (2, B, L, D); written to
            where gradients are off.
        u: Inputs, (2, B, L, D), likewise.
        gaps: Where tokens are missing.
        delta_bias: (2, D).
    """
    wide = torch.promote_types(delta.dtype, torch.float32)
    bias = delta_bias.to(wide).unsqueeze(1)
    rows, missing = gaps.rows, gaps.missing.view(2, -1, 1)
    steps = F.softplus(_take(delta, rows).to(wide) + bias)
    longer = steps + missing * F.softplus(bias)
    # what softplus makes longer steps of
    bent = longer + torch.log(-torch.expm1(-longer)) - bias
    before = _take(u, rows).to(wide)
    after = before * (steps / longer)
    return Bridged(
        _put(delta, rows, bent), _put(u, rows, after), before - after
    )


def _take(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of x (2, B, L, D), those of each direction, (2, G / 2, D)."""
    return x.flatten(0, 2).index_select(0, rows).unflatten(0, (2, -1))


def _put(x: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """x (2, B, L, D) with other rows, in place where nothing learns."""
    flat, values = x.flatten(0, 2), values.flatten(0, 1).to(x.dtype)
    if torch.is_grad_enabled():
        return flat.index_copy(0, rows, values).view_as(x)
    return flat.index_copy_(0, rows, values).view_as(x)


def add_rows(x: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """Add to rows of x, which may come twice; in place without gradients.

    Args:
        x: (..., D).
        rows: Places in all of its rows, (G,).
        values: (G, D).
    """
    flat, values = x.flatten(0, -2), values.to(x.dtype)
    if torch.is_grad_enabled():
        return flat.index_add(0, rows, values).view_as(x)
    return flat.index_add_(0, rows, values).view_as(x)

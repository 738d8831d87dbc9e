"""Keeping the tokens that score best, and what the scan knows of gaps."""

import math

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


def gaps_between(places: Tensor) -> Tensor:
    """Number of tokens that are missing before each, from either end.

    Args:
        places: Places in the whole sequence of those that are there,
            ascending, (B, L).

    Returns:
        (2, B, L): missing between a token and the one before it, and between
        it and the one behind it; 0 at the ends, where nothing comes before.
    """
    between = places.diff(dim=1) - 1
    return torch.stack([F.pad(between, (1, 0)), F.pad(between, (0, 1))])


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
    delta: Tensor, u: Tensor, gaps: Tensor, step: Tensor
) -> tuple[Tensor, Tensor]:
    """Let states decay over missing tokens, by the inputs of a plain scan.

    A missing token has no input and one step size for all, ``step``: over a
    gap of g before token t, states decay by exp((delta_t + g * step) * A),
    and take in delta_t * B_t * u_t. A scan with longer steps and smaller
    inputs does just that. "Our reading" of HiddenAlign, of which there is
    neither an equation nor code to read.

    Args:
        delta: Positive step sizes, (2, B, L, D).
        u: Inputs, (2, B, L, D).
        gaps: Number of missing tokens before each, (2, B, L).
        step: Positive step size of a missing token, (2, D).

    Returns:
        Step sizes and inputs for the scan, (2, B, L, D).
    """
    longer = delta + gaps.unsqueeze(-1) * step[:, None, None]
    return longer, u * (delta / longer)

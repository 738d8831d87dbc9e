"""Which coarse tokens are refined, and where their fine tokens lie."""

import math

import torch
from torch import Tensor


def num_selected(alpha: float, num_coarse: int) -> int:
    """Number of coarse tokens to refine, ceil(alpha * N_c) (Eq. 13).

    The paper's floor of (1 - alpha) * N_c would lose or repeat a token where
    floats round; the unselected are the rest. The small margin makes
    0.55 * 100 give 55.

    Args:
        alpha: Share of coarse tokens to refine, in [0, 1].
        num_coarse: Number of coarse tokens N_c.
    """
    return math.ceil(alpha * num_coarse - 1e-6)


def select_tokens(
    importance: Tensor, num: int, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Split coarse tokens by importance (Algorithm 2, lines 4-8).

    The sort is stable, so that the lower index wins a tie, and invalid
    tokens come last, so that none is selected while a valid one remains.

    Args:
        importance: Importance without CLS, (B, N_c).
        num: Tokens to select, k.
        valid: True where a token shows some of the image, (B, N_c).

    Returns:
        Selected (B, k) and unselected (B, N_c - k) indices, each in spatial
        order.
    """
    if valid is not None:
        importance = importance.masked_fill(~valid, -math.inf)
    ranked = importance.argsort(dim=1, descending=True, stable=True)
    return (
        ranked[:, :num].sort(dim=1).values,
        ranked[:, num:].sort(dim=1).values,
    )


def coarse_to_fine_index(index: Tensor, coarse_width: int) -> Tensor:
    """Map coarse tokens to the 2x2 fine tokens that they cover (Eq. 15-16).

    Args:
        index: Row-major coarse positions, (B, K).
        coarse_width: Coarse tokens per row; the grid need not be square.

    Returns:
        Row-major fine positions, four per coarse token in the tokens' order,
        (B, 4 * K).
    """
    fine_width = 2 * coarse_width
    top_left = 4 * index - 2 * (index % coarse_width)
    rows = torch.stack([top_left, top_left + fine_width], dim=-1)
    return torch.stack([rows, rows + 1], dim=-1).flatten(1)

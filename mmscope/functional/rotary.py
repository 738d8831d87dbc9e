"""Rotary position embeddings on a grid, as the official Vim has them."""

import torch
from torch import Tensor

BASE_SIDE, THETA = 14, 10_000.0


def rotary_tables(
    grid: tuple[int, int], dims: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines by which channels are rotated at each cell.

    The first half of the channels turns with the row, the other half with
    the column; any grid spans what one of 14 cells does.

    Args:
        grid: Height and width in cells.
        dims: Channels C, a multiple of 4.
        device: Device of the tables.

    Returns:
        Two tables (N, C), float32.
    """
    half = dims // 2
    steps = torch.arange(0, half, 2, device=device) / half
    angles = [
        torch.outer(
            torch.arange(side, device=device) * (BASE_SIDE / side),
            THETA**-steps,
        ).repeat_interleave(2, dim=1)
        for side in grid
    ]
    rows = angles[0].unsqueeze(1).expand(*grid, half)
    columns = angles[1].unsqueeze(0).expand(*grid, half)
    whole = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return whole.cos(), whole.sin()


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Turn neighbouring channels of tokens, two at a time.

    Args:
        x: Tokens, (B, N, C).
        tables: Of :func:`rotary_tables`, for these N tokens.
    """
    cos, sin = tables
    first, second = x.unflatten(-1, (-1, 2)).unbind(dim=-1)
    turned = torch.stack([-second, first], dim=-1).flatten(-2)
    return x * cos + turned * sin

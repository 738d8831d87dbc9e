"""Token sequences with a class token, and dense maps from tokens."""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_choice
from .routing import coarse_to_fine_index

CLS_POSITIONS = ('first', 'middle', 'last')
TOKEN_ORDERS = ('important_first', 'important_last', 'raster')


class FineLayout(NamedTuple):
    """Where the tokens of a fine sequence come from.

    Attributes:
        fine_index: Row-major fine positions of the refined cells, sorted,
            (B, 4 * k).
        unselected: Row-major coarse positions of the others, sorted, (B, U).
        order: Position in ``[fine, others, CLS]`` of every token of the
            sequence, (B, 4 * k + O + 1). There is a token for each of the
            others, O = U, unless they are dropped.
        coarse_width: Coarse tokens per row.
        dropped: Whether the others have no tokens of their own.
    """

    fine_index: Tensor
    unselected: Tensor
    order: Tensor
    coarse_width: int
    dropped: bool


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Gather tokens by their position.

    Args:
        tokens: (B, N, C).
        index: (B, K).

    Returns:
        (B, K, C).
    """
    batch, length = tokens.shape[:2]
    # whole rows at once: on CPU several times faster than an expanded gather
    first = torch.arange(batch, device=index.device).unsqueeze(1) * length
    rows = tokens.flatten(0, 1).index_select(0, (index + first).flatten())
    return rows.unflatten(0, index.shape)


def cls_offset(num_tokens: int, position: str) -> int:
    """Number of tokens ahead of the class token.

    Args:
        num_tokens: Tokens among which it is put.
        position: 'first', 'middle' or 'last'.
    """
    return {'first': 0, 'middle': num_tokens // 2, 'last': num_tokens}[
        position
    ]


def insert_cls(tokens: Tensor, cls: Tensor) -> Tensor:
    """Put the class token in the middle, at index N // 2, as Vim does.

    Args:
        tokens: (B, N, C).
        cls: (B, 1, C).

    Returns:
        (B, N + 1, C).
    """
    middle = tokens.shape[1] // 2
    return torch.cat([tokens[:, :middle], cls, tokens[:, middle:]], dim=1)


def split_cls(sequence: Tensor) -> tuple[Tensor, Tensor]:
    """Undo :func:`insert_cls`.

    Args:
        sequence: (B, N + 1, ...).

    Returns:
        Tokens (B, N, ...) and class token (B, ...).
    """
    middle = (sequence.shape[1] - 1) // 2
    tokens = torch.cat([sequence[:, :middle], sequence[:, middle + 1 :]], 1)
    # not sequence[:, middle]: a number as index would fix an exported length
    return tokens, sequence[:, middle : middle + 1].squeeze(1)


def run_starts(num_tokens: int, num_runs: int) -> list[int]:
    """Where runs of as many tokens begin, within a token.

    Args:
        num_tokens: Number of tokens N.
        num_runs: Number of runs, at most N.
    """
    return [run * num_tokens // num_runs for run in range(num_runs)]


def run_means(tokens: Tensor, num_runs: int) -> Tensor:
    """Average runs of tokens that follow each other.

    Args:
        tokens: Tokens in raster order, (B, N, C).
        num_runs: Number of runs R, at most N.

    Returns:
        (B, R, C).
    """
    starts = [*run_starts(tokens.shape[1], num_runs), tokens.shape[1]]
    means = [
        tokens[:, begin:end].mean(dim=1, keepdim=True)
        for begin, end in pairwise(starts)
    ]
    return torch.cat(means, dim=1) if means else tokens[:, :0]


def insert_evenly(sequence: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
    """Spread more tokens evenly through a sequence.

    Args:
        sequence: (B, L, C).
        extra: Tokens to insert, the same in every sequence, (1, R, C).

    Returns:
        The longer sequence (B, L + R, C), and the places in it of the L
        tokens, (L,).
    """
    batch, length = sequence.shape[:2]
    num = extra.shape[1]
    extra = extra.to(sequence.dtype).expand(batch, -1, -1)
    cuts = [(i + 1) * length // (num + 1) for i in range(num)]
    starts, ends = [0, *cuts], [*cuts, length]
    parts, places = [], []
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        parts += [sequence[:, start:end], extra[:, number : number + 1]]
        places += range(start + number, end + number)
    return torch.cat(parts, dim=1), torch.tensor(
        places, device=sequence.device
    )


def fine_layout(
    fine_index: Tensor,
    unselected: Tensor,
    coarse_width: int,
    cls_position: str = 'middle',
    token_order: str = 'important_first',
    num_context: int | None = None,
) -> FineLayout:
    """Lay out the sequence of the fine stage (Algorithm 2, lines 14-18).

    CLS stands ahead of, amid or behind the refined tokens. Under 'raster',
    where an unselected token stands at its top-left fine cell, it stands
    ahead of, amid or behind all tokens. Algorithm 2 has the middle, the
    ablation's text the front; we follow the algorithm.

    Args:
        fine_index: Fine positions of the refined cells, sorted, (B, 4 * k).
        unselected: Coarse positions of the others, sorted, (B, U).
        coarse_width: Coarse tokens per row.
        cls_position: 'first', 'middle' or 'last'.
        token_order: 'important_first', 'important_last' or 'raster'.
        num_context: Number of tokens that stand for the others, see
            :func:`run_means`; None where each has its own.

    Raises:
        ValueError: ``cls_position`` or ``token_order`` is unknown.
    """
    check_choice('cls_position', cls_position, CLS_POSITIONS)
    check_choice('token_order', token_order, TOKEN_ORDERS)
    batch, num_fine = fine_index.shape
    dropped = num_context is not None
    standing = (
        unselected[:, run_starts(unselected.shape[1], num_context)]
        if dropped
        else unselected
    )
    total = num_fine + standing.shape[1]
    place = torch.arange(total + 1, device=fine_index.device)
    important, others, cls = place.split([num_fine, total - num_fine, 1])
    if token_order == 'raster':
        corner = coarse_to_fine_index(standing, coarse_width)[:, ::4]
        order = torch.cat([fine_index, corner], dim=1).argsort(dim=1)
        offset = cls_offset(total, cls_position)
        order = torch.cat(
            [order[:, :offset], cls.expand(batch, 1), order[:, offset:]], 1
        )
    else:
        offset = cls_offset(num_fine, cls_position)
        parts = [important[:offset], cls, important[offset:]]
        first = token_order == 'important_first'
        parts = [*parts, others] if first else [others, *parts]
        order = torch.cat(parts).expand(batch, -1)
    return FineLayout(fine_index, unselected, order, coarse_width, dropped)


def build_fine_sequence(
    fine: Tensor, unselected: Tensor, cls: Tensor, layout: FineLayout
) -> Tensor:
    """Arrange the tokens of the fine stage.

    Args:
        fine: Embeddings of the refined cells, (B, 4 * k, C).
        unselected: Tokens of the other cells, (B, O, C).
        cls: Class token, (B, 1, C).
        layout: Places of the tokens.

    Returns:
        (B, 4 * k + O + 1, C).
    """
    tokens = torch.cat([fine, unselected, cls], dim=1)
    return take_tokens(tokens, layout.order)


def fine_places(layout: FineLayout) -> tuple[Tensor, Tensor]:
    """Where a fine sequence has the token of each fine cell, and CLS.

    A refined cell has a token of its own; an unselected coarse token stands
    for its 2x2 fine cells. Dropped ones are counted behind the sequence.

    Args:
        layout: The layout that the sequence was built with.

    Returns:
        Places of the cells in raster order, (B, h * w), and of CLS, (B, 1).
    """
    # permutations: their inverse by scattering needs no sort
    order, num_fine = layout.order, layout.fine_index.shape[1]
    count = torch.arange(order.shape[1], device=order.device)
    place = torch.empty_like(order).scatter_(1, order, count.expand_as(order))
    fine, others = place[:, :num_fine], place[:, num_fine:-1]
    if layout.dropped:
        others = order.shape[1] + torch.arange(
            layout.unselected.shape[1], device=order.device
        ).expand(order.shape[0], -1)
    covered = coarse_to_fine_index(layout.unselected, layout.coarse_width)
    cells = torch.cat([layout.fine_index, covered], dim=1)
    values = torch.cat([fine, others.repeat_interleave(4, dim=1)], dim=1)
    return torch.empty_like(cells).scatter_(1, cells, values), place[:, -1:]


def tokens_to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Arrange row-major tokens on their grid.

    Args:
        tokens: (B, h * w, C).
        grid: (h, w).

    Returns:
        (B, C, h, w), contiguous: mmcv's RoIAlign on a CPU takes that for
        granted.
    """
    return tokens.mT.contiguous().unflatten(2, grid)


def to_fine_grid(maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Repeat coarse maps over 2x2 cells: (B, C, h, w) to (B, C, 2h, 2w)."""
    return tuple(
        F.interpolate(m, scale_factor=2, mode='nearest') for m in maps
    )


def merge_rows(
    easy: Tensor, coarse: Tensor, hard: Tensor, fine: Tensor
) -> Tensor:
    """Put the maps of a batch together from those of two parts of it.

    Args:
        easy: Rows of the images that exited, (E,).
        coarse: Maps of these images, (E, C, h, w).
        hard: Rows of the others, (K,).
        fine: Maps of the others, (K, C, h, w).

    Returns:
        Maps of the batch in the dtype of ``fine``, (E + K, C, h, w).
    """
    out = fine.new_empty(len(easy) + len(hard), *fine.shape[1:])
    out.index_copy_(0, easy, coarse.to(fine.dtype))
    return out.index_copy_(0, hard, fine)

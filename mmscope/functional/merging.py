"""Merging tokens that are alike, in their order (R-MeeTo)."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class MergePlan(NamedTuple):
    """Which tokens become one.

    Attributes:
        slots: Place of every token after the merge, (B, N).
        num_left: Number of tokens that are left.
    """

    slots: Tensor
    num_left: int


@torch.no_grad()
def plan_merge(
    metric: Tensor,
    num: int,
    valid: Tensor | None = None,
    window: int | None = None,
) -> MergePlan:
    """Merge tokens at even places into the most similar ones at odd places.

    Those with the most similar partner are merged; what is left keeps its
    order. A token of the image and one of the padding never become one, and
    those of the padding are merged last.

    Args:
        metric: What similarity is the cosine of, (B, N, C).
        num: Number of tokens to merge away; at most half of them are.
        valid: True where a token shows some of the image, (B, N).
        window: Number of neighbouring tokens that partners are looked for
            among; by default all. It bounds the cost, which is quadratic.
    """
    batch, total = metric.shape[:2]
    num = min(num, total // 2)
    places = torch.arange(total, device=metric.device)
    if not num:
        return MergePlan(places.expand(batch, -1), total)
    best, partner = best_partners(metric, valid, window)
    ranked = best.argsort(dim=1, descending=True, stable=True)[:, :num]
    sources = 2 * ranked
    targets = partner.gather(1, ranked)
    parent = places.expand(batch, -1).scatter(1, sources, targets)
    kept = parent == places
    rank = kept.cumsum(dim=1) - 1
    return MergePlan(rank.gather(1, parent), total - num)


def best_partners(
    metric: Tensor, valid: Tensor | None, window: int | None
) -> tuple[Tensor, Tensor]:
    """The most similar token at an odd place, for each at an even one.

    Args:
        metric: (B, N, C).
        valid: (B, N), or None for all.
        window: See :func:`plan_merge`.

    Returns:
        Its similarity and its place in the sequence, (B, ceil(N / 2)) both.
    """
    total = metric.shape[1]
    metric = F.normalize(metric, dim=-1)
    best, partner = [], []
    for start, end in window_bounds(total, window):
        ours = metric[:, start:end:2]
        theirs = metric[:, start + 1 : end : 2]
        alike = ours @ theirs.mT
        if valid is not None:
            a, b = (
                valid[:, start:end:2, None],
                valid[:, None, start + 1 : end : 2],
            )
            # a cosine is at least -1; padding has no partner in the image
            alike = torch.where(a & b, alike, -2.0)
            alike = alike.masked_fill(a != b, -math.inf)
        top = alike.max(dim=-1)
        best.append(top.values)
        partner.append(start + 1 + 2 * top.indices)
    return torch.cat(best, dim=1), torch.cat(partner, dim=1)


def window_bounds(total: int, window: int | None) -> list[tuple[int, int]]:
    """Split a sequence into equal runs that begin at even places.

    Args:
        total: Number of tokens N.
        window: Tokens of a run at most, or None for one run.
    """
    runs = 1 if window is None else max(1, math.ceil(total / window))
    starts = [2 * (run * total // (2 * runs)) for run in range(runs)]
    return list(zip(starts, [*starts[1:], total], strict=True))


def merge_tokens(x: Tensor, sizes: Tensor, plan: MergePlan) -> Tensor:
    """Average what becomes one, each by the number of cells it stands for.

    Args:
        x: Tokens, (B, N, C).
        sizes: Cells that each stands for, (B, N).
        plan: Which become one.

    Returns:
        (B, num_left, C).
    """
    total = merge_sizes(sizes, plan).unsqueeze(-1)
    return _summed(x * sizes.unsqueeze(-1), plan) / total


def merge_sizes(sizes: Tensor, plan: MergePlan) -> Tensor:
    """Cells that tokens stand for after a merge, (B, N) to (B, num_left)."""
    return _summed(sizes.unsqueeze(-1), plan).squeeze(-1)


def _summed(x: Tensor, plan: MergePlan) -> Tensor:
    """Sum what becomes one, (B, N, C) to (B, num_left, C)."""
    batch = x.shape[0]
    first = torch.arange(batch, device=x.device).unsqueeze(1) * plan.num_left
    rows = (plan.slots + first).flatten()
    out = x.new_zeros(batch * plan.num_left, x.shape[-1])
    return out.index_add(0, rows, x.flatten(0, 1)).unflatten(0, (batch, -1))

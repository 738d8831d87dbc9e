"""A sequence whose dropped tokens stand behind those that are kept."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmscope.functional import take_tokens


class Arranged(NamedTuple):
    """A sequence in training: kept tokens first, then those dropped.

    Attributes:
        x: Residual stream, (B, N + 1, C).
        update: What the last block adds to it, or None.
        order: Cell of each token, N for CLS, (B, N + 1).
        mask: 1 for tokens that are kept and CLS, with gradients, (B, N + 1).
    """

    x: Tensor
    update: Tensor | None
    order: Tensor
    mask: Tensor

    def in_place(self) -> Tensor:
        """The stream by cell, with CLS last, (B, N + 1, C)."""
        stream = self.x
        if self.update is not None:
            stream = stream + self.update.to(stream.dtype)
        return take_tokens(stream, self.order.argsort(dim=1))

    def cls(self, tokens: Tensor) -> Tensor:
        """Class tokens of a sequence (B, N + 1, C), (B, 1, C)."""
        place = self.order.argmax(dim=1, keepdim=True)
        return take_tokens(tokens, place)


def arranged_order(kept: Tensor) -> Tensor:
    """Cells in the order of the sequence: kept ones, CLS in their middle.

    Args:
        kept: Whether a cell is kept, (B, N).

    Returns:
        Cell of each place, N for CLS, dropped ones last, (B, N + 1).
    """
    batch, total = kept.shape
    rank = kept.cumsum(dim=1)
    half = rank[:, -1:] // 2
    # CLS follows the first half; twice the rank leaves room for it
    keys = torch.where(kept, 2 * rank, 2 * total + 2)
    keys = torch.cat([keys, 2 * half + 1], dim=1)
    return keys.argsort(dim=1, stable=True)


def arrange_first(x: Tensor) -> Arranged:
    """A sequence that nothing is dropped from yet."""
    total = x.shape[1] - 1
    everything = torch.ones(1, total, dtype=torch.bool, device=x.device)
    order = arranged_order(everything).expand(len(x), -1)
    return Arranged(x, None, order, x.new_ones(x.shape[:2]))

"""Token merging for Vision Mamba."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmscope.functional.merging import merge_sizes, merge_tokens, plan_merge
from mmscope.registry import MODELS

from .base import Reduced, TokenReduction

# cells of 224 x 224 pixels, which the papers count in
BASE_CELLS = 196


@MODELS.register_module()
class TokenMerging(TokenReduction):
    """Merges tokens with the most similar outputs, in their order.

    R-MeeTo (arXiv 2412.12496). Ahead of some blocks half of the tokens look
    for their most similar partner in the other half by the output of the last
    mixer; those that have found the most similar ones are averaged with them.
    It has no parameters: it runs on any weights of Vision Mamba, and is
    better after a short training with it.

    Args:
        num_merged: Number of tokens merged away at a time, for an image of
            196 cells; it grows with the number of cells. The paper has 5 for
            Vim-T, 11 for S and B.
        blocks: Blocks, counted from 0, that tokens are merged ahead of; every
            second from the third on by default.
        window: Number of neighbouring tokens that partners are looked for
            among; None for all. It bounds the cost, which is quadratic in the
            number of tokens.

    Raises:
        ValueError: a number is negative, or there is nothing to look among.
    """

    def __init__(
        self,
        num_merged: int = 5,
        blocks: Sequence[int] = tuple(range(2, 24, 2)),
        window: int | None = 1024,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if num_merged < 0:
            raise ValueError(
                f'num_merged must not be negative, got {num_merged}'
            )
        if window is not None and window < 2:
            raise ValueError(
                f'window must be at least 2 tokens or None, got {window}'
            )
        if any(block < 1 for block in blocks):
            raise ValueError(
                'blocks must be numbers from 1 on, as the first block has no '
                f'mixer before it, got {tuple(blocks)}'
            )
        self.num_merged = num_merged
        self.blocks = frozenset(blocks)
        self.window = window

    def asks_score(self, index: int) -> bool:
        """No block: similarity decides."""
        return False

    def before_block(self, index: int, tokens: Reduced) -> Reduced:
        """Merge tokens, see :meth:`TokenReduction.before_block`."""
        num = round(self.num_merged * tokens.slots.shape[1] / BASE_CELLS)
        if index not in self.blocks or not num:
            return tokens
        metric, _ = tokens.split(tokens.mixed)
        plan = plan_merge(metric, num, tokens.valid, self.window)
        others, cls = tokens.split(tokens.stream)
        others = merge_tokens(others, tokens.sizes, plan)
        length = tokens.x.shape[1]
        at = tokens.cls * (1 + plan.num_left) // length
        valid = tokens.valid
        if valid is not None:
            valid = valid.new_zeros(len(valid), plan.num_left).scatter_(
                1, plan.slots, valid
            )
        return tokens._replace(
            x=torch.cat([others[:, :at], cls, others[:, at:]], dim=1),
            update=None,
            mixed=None,
            cls=at,
            slots=plan.slots.gather(1, tokens.slots),
            sizes=merge_sizes(tokens.sizes, plan),
            valid=valid,
        )

"""Token pruning for Vision Mamba."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmscope.functional.checks import check_choice
from mmscope.functional.pruning import (
    find_gaps,
    insert_place,
    num_kept,
)
from mmscope.functional.routing import select_tokens
from mmscope.registry import MODELS

from ..layers import ScoreMetric
from .base import Reduced, TokenReduction

ALIGNMENTS = ('decay', 'hold', 'mask')


@MODELS.register_module()
class HiddenAlignPruning(TokenReduction):
    """Prunes the tokens whose state-space outputs are weakest.

    "Exploring Token Pruning in Vision State Space Models" (arXiv 2409.18962).
    Behind some blocks the tokens with the largest clipped activations are
    kept, and CLS in their middle. Their alignment of hidden states is known
    as prose alone; ``alignment`` has our readings of it. A pruned cell keeps
    what it had in the maps. It has no parameters: it runs on any weights of
    Vision Mamba, and is better after a short training with it.

    Args:
        ratio: Share of the tokens that is kept at a time, in (0, 1].
        blocks: Blocks, counted from 0, that tokens are pruned behind: for
            Vim-S (4, 9, 14), for T (9, 19).
        alignment: 'decay': states decay over pruned tokens by the step size
            that a token without content has; 'hold': they do not; 'mask':
            pruned tokens stay in the sequence as zeros, which saves nothing
            and is there to compare with.

    Raises:
        ValueError: ``ratio`` is out of range, or ``alignment`` unknown.
    """

    # channels below zero are clipped, both directions count
    score = ScoreMetric('clip', 'sum')

    def __init__(
        self,
        ratio: float = 0.8,
        blocks: Sequence[int] = (4, 9, 14),
        alignment: str = 'decay',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not 0 < ratio <= 1:
            raise ValueError(f'ratio must be in (0, 1], got {ratio}')
        check_choice('alignment', alignment, ALIGNMENTS)
        self.ratio = ratio
        self.blocks = frozenset(blocks)
        self.alignment = alignment

    def asks_score(self, index: int) -> bool:
        """Those that tokens are pruned behind."""
        return index in self.blocks and self.ratio < 1

    def after_block(
        self, index: int, tokens: Reduced, score: Tensor | None
    ) -> Reduced:
        """Prune tokens, see :meth:`TokenReduction.after_block`."""
        if score is None:
            return tokens
        scores, _ = tokens.split(score.unsqueeze(-1))
        if self.alignment == 'mask':
            return self._mask(index, tokens, scores.squeeze(-1))
        num = num_kept(self.ratio, scores.shape[1])
        kept, _ = select_tokens(scores.squeeze(-1), num, tokens.valid)
        tokens = tokens.keep(kept)
        if self.alignment == 'hold':
            return tokens
        places = insert_place(_places(tokens.slots, num), tokens.cls)
        return tokens._replace(
            gaps=find_gaps(places, tokens.slots.shape[1] + 1)
        )

    def _mask(self, index: int, tokens: Reduced, scores: Tensor) -> Reduced:
        """Prune tokens, and leave zeros where they were.

        Args:
            index: Number of the block.
            tokens: The sequence, which has a token for every cell.
            scores: Scores of its tokens, (B, N).
        """
        num = scores.shape[1]
        for block in sorted(self.blocks):
            if block <= index:
                num = num_kept(self.ratio, num)
        if tokens.valid is not None:
            # behind the image, which scores 0 or more, ahead of the pruned
            scores = scores.masked_fill(~tokens.valid, -1)
        kept, _ = select_tokens(scores, num, tokens.slots >= 0)
        return tokens.mask(kept)


def _places(slots: Tensor, num: int) -> Tensor:
    """Cell of each token, (B, num)."""
    cells = torch.arange(slots.shape[1], device=slots.device)
    places = slots.new_zeros(len(slots), num + 1)
    places.scatter_(
        1, slots.masked_fill(slots < 0, num), cells.expand_as(slots)
    )
    return places[:, :num]

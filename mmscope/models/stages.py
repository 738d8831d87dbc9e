"""What the coarse and the fine pass return."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Maps = tuple[Tensor, ...]


class CoarseStage(NamedTuple):
    """What the coarse pass leaves for the fine one.

    Attributes:
        tokens: Input embeddings, (B, N_c, C).
        features: Output tokens after the final norm (B, N_c, C), or None
            where nothing reads them.
        cls: Class token after the final norm (B, C), or None likewise.
        maps: One (B, C, h / 2, w / 2) for each level, none where the model
            answers by class tokens alone.
        importance: (B, N_c).
    """

    tokens: Tensor
    features: Tensor | None
    cls: Tensor | None
    maps: Maps
    importance: Tensor

    def rows(self, index: Tensor) -> 'CoarseStage':
        """Keep some images of the batch."""
        return CoarseStage(
            *(
                tuple(m[index] for m in value)
                if isinstance(value, tuple)
                else value
                if value is None
                else value[index]
                for value in self
            )
        )


class FineStage(NamedTuple):
    """What the fine pass returns.

    Attributes:
        maps: One (B, C, h, w) for each level, none as in the coarse stage.
        cls: Class token after the final norm (B, C), or None where nothing
            reads it.
        logits: Exit head on the class token (B, K), or None without one.
        selected: Refined coarse cells (B, k), -1 behind those of an image
            that has fewer.
    """

    maps: Maps
    cls: Tensor | None
    logits: Tensor | None
    selected: Tensor


def join_stages(
    stages: Sequence[FineStage], places: Sequence[Tensor]
) -> FineStage:
    """Put the fine stages of parts of a batch together.

    Args:
        stages: Fine stage of each part.
        places: Rows of each part in the whole.

    Returns:
        The fine stage of all, in the order of the rows.
    """
    # a permutation: one copy puts all in place
    order = torch.cat(list(places)).argsort()
    width = max(one.selected.shape[1] for one in stages)
    selected = [
        F.pad(one.selected, (0, width - one.selected.shape[1]), value=-1)
        for one in stages
    ]
    levels = zip(*(one.maps for one in stages), strict=True)
    cls, logits = (
        None if parts[0] is None else torch.cat(parts)[order]
        for parts in (
            [one.cls for one in stages],
            [one.logits for one in stages],
        )
    )
    return FineStage(
        tuple(torch.cat(level)[order] for level in levels),
        cls,
        logits,
        torch.cat(selected)[order],
    )

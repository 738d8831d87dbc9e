"""What the stages of MambaScope hand to each other and to the heads."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class CoarseStage(NamedTuple):
    """What the coarse pass leaves for the fine one.

    Attributes:
        tokens: Input embeddings, (B, N_c, C).
        features: Output tokens after the final norm (B, N_c, C), or None
            where nothing reads them.
        cls: Class token after the final norm (B, C), or None likewise.
        maps: One (B, C, h / 2, w / 2) for each level.
        importance: (B, N_c).
    """

    tokens: Tensor
    features: Tensor | None
    cls: Tensor | None
    maps: tuple[Tensor, ...]
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


class Decision(NamedTuple):
    """The judgement of the coarse answers.

    Attributes:
        logits: Exit head on the coarse class token (B, K), or None without.
        confidence: Of the coarse answers (B,), NaN without exit head.
        exited: Which images keep them, (B,) bool.
    """

    logits: Tensor | None
    confidence: Tensor
    exited: Tensor


class FineStage(NamedTuple):
    """What the fine pass returns.

    Attributes:
        maps: One (B, C, h, w) for each level.
        logits: Exit head on the class token (B, K), or None without one.
        selected: Refined coarse cells, (B, k).
    """

    maps: tuple[Tensor, ...]
    logits: Tensor | None
    selected: Tensor


class ScopeResult(NamedTuple):
    """Features of a batch and how each image came by them.

    Attributes:
        features: One (B, C, h, w) for each level, from the pass that the
            image ended in; coarse ones are repeated over 2x2 cells.
        coarse_features: One (B, C, h / 2, w / 2) for each level.
        coarse_logits: Exit head on the coarse class token, (B, K), or None
            without exit head.
        fine_logits: Exit head on the fine class token, (B, K), NaN where
            exited; or None without exit head.
        exited: Which images kept their coarse answer, (B,) bool.
        confidence: Of the coarse answer (B,), NaN without exit head.
        importance: Of the coarse cells, (B, N_c).
        selected: Refined coarse cells (B, k), -1 where exited.
    """

    features: tuple[Tensor, ...]
    coarse_features: tuple[Tensor, ...]
    coarse_logits: Tensor | None
    fine_logits: Tensor | None
    exited: Tensor
    confidence: Tensor
    importance: Tensor
    selected: Tensor


def replace_rows(old: Tensor, index: Tensor, new: Tensor) -> Tensor:
    """Copy ``old`` (B, ...) with the rows at ``index`` (K,) replaced."""
    return old.index_copy(0, index, new.to(old.dtype))


def exited_result(
    coarse: CoarseStage, decision: Decision, num_selected: int
) -> ScopeResult:
    """The result of a batch of which every image has exited."""
    logits, importance = decision.logits, coarse.importance
    return ScopeResult(
        features=tuple(
            F.interpolate(m, scale_factor=2, mode='nearest')
            for m in coarse.maps
        ),
        coarse_features=coarse.maps,
        coarse_logits=logits,
        fine_logits=None
        if logits is None
        else torch.full_like(logits, torch.nan),
        exited=decision.exited,
        confidence=decision.confidence,
        importance=importance,
        selected=torch.full(
            (len(importance), num_selected), -1, device=importance.device
        ),
    )


def refined_result(
    coarse: CoarseStage, decision: Decision, fine: FineStage
) -> ScopeResult:
    """The result of a batch of which every image was refined."""
    return ScopeResult(
        features=fine.maps,
        coarse_features=coarse.maps,
        coarse_logits=decision.logits,
        fine_logits=fine.logits,
        exited=decision.exited,
        confidence=decision.confidence,
        importance=coarse.importance,
        selected=fine.selected,
    )


def merge_refined(
    easy: ScopeResult, hard: Tensor, fine: FineStage
) -> ScopeResult:
    """Write refined images back into a batch that has an exit head.

    Args:
        easy: The result if every image exits.
        hard: Rows that were refined, (K,).
        fine: Their fine stage.
    """
    return easy._replace(
        features=tuple(
            replace_rows(old, hard, new)
            for old, new in zip(easy.features, fine.maps, strict=True)
        ),
        fine_logits=replace_rows(easy.fine_logits, hard, fine.logits),
        selected=replace_rows(easy.selected, hard, fine.selected),
    )

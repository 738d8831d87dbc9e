"""What the stages of MambaScope hand to each other and to the heads."""

from collections.abc import Callable
from math import nan
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmscope.functional import exits

from .exit_head import ExitHead


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

    def easy_rows(self, num_hard: int) -> Tensor:
        """Images that exited, without asking the device, (B - K,)."""
        return self.exited.byte().argsort(stable=True)[num_hard:]

    def hard_rows(self, eta: float) -> Tensor:
        """Images to refine, (K,); asks the device only if it has to."""
        if eta in (0, 1):
            count = len(self.exited) if eta == 1 else 0
            return torch.arange(count, device=self.exited.device)
        # the one synchronisation with the host
        return self.exited.logical_not().nonzero().squeeze(1)


# confidence (B,) of coarse answers from their stage and exit logits
Judge = Callable[[CoarseStage, Tensor], Tensor]


def decide(
    coarse: CoarseStage,
    exit_head: ExitHead | None,
    eta: float,
    judge: Judge | None = None,
) -> Decision:
    """Judge the coarse answers.

    Args:
        coarse: Of B images.
        exit_head: Head on the class token, or None.
        eta: Threshold.
        judge: Gives the confidence instead of the exit head.
    """
    logits, confidence = None, torch.full_like(coarse.importance[:, 0], nan)
    if exit_head is not None:
        logits = exit_head(coarse.cls)
        confidence = (
            exit_head.confidence(logits)
            if judge is None
            else judge(coarse, logits)
        )
    return Decision(logits, confidence, exits(confidence, eta))


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


class Look(NamedTuple):
    """A batch after its coarse pass.

    Attributes:
        images: Padded, (B, 3, H, W).
        valid: Which coarse cells show some of the image, (B, N_c), or None.
        coarse: Its coarse stage.
        decision: Which images keep their coarse answer.
        hard: Rows of the others, ascending, (K,).
    """

    images: Tensor
    valid: Tensor | None
    coarse: CoarseStage
    decision: Decision
    hard: Tensor

    def to_refine(self) -> tuple[Tensor, CoarseStage, Tensor | None]:
        """What the fine stage takes: images, coarse stage, valid cells."""
        if len(self.hard) == len(self.images):
            return self.images, self.coarse, self.valid
        valid = self.valid if self.valid is None else self.valid[self.hard]
        return self.images[self.hard], self.coarse.rows(self.hard), valid

    def easy_maps(self, resolution: str) -> tuple[Tensor, ...] | None:
        """Maps of the images that exited, None if none did.

        Args:
            resolution: 'coarse' at stride 2P, 'fine' repeated to stride P.
        """
        maps = self.coarse.maps
        if len(self.hard) == len(self.images):
            return None
        if len(self.hard):
            rows = self.decision.easy_rows(len(self.hard))
            maps = tuple(m[rows] for m in maps)
        return maps if resolution == 'coarse' else tuple(map(_repeat, maps))


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


class Stages(NamedTuple):
    """Both passes over a batch, not yet merged.

    Attributes:
        coarse: Of all images.
        decision: Which of them keep the coarse answer.
        hard: Rows of the refined ones, ascending, (K,).
        fine: Their fine stage, or None where there are none.
        num_selected: Cells that are refined of an image.
    """

    coarse: CoarseStage
    decision: Decision
    hard: Tensor
    fine: FineStage | None
    num_selected: int

    def easy(self) -> Tensor:
        """Rows of the images that exited."""
        return self.decision.easy_rows(len(self.hard))

    def groups(self) -> list[tuple[Tensor | None, tuple[Tensor, ...]]]:
        """The maps that images ended with, coarse ones at stride 2P.

        Returns:
            Rows, None for the whole batch, and their maps, for each of the
            stages that any image ended in.
        """
        if self.fine is None:
            return [(None, self.coarse.maps)]
        if len(self.hard) == len(self.decision.exited):
            return [(None, self.fine.maps)]
        easy = self.easy()
        maps = tuple(m[easy] for m in self.coarse.maps)
        return [(easy, maps), (self.hard, self.fine.maps)]

    def result(self) -> ScopeResult:
        """Merge them; coarse maps are repeated over 2x2 cells."""
        logits, confidence, exited = self.decision
        features, fine_logits, selected = self._merged()
        return ScopeResult(
            features=features,
            coarse_features=self.coarse.maps,
            coarse_logits=logits,
            fine_logits=fine_logits,
            exited=exited,
            confidence=confidence,
            importance=self.coarse.importance,
            selected=selected,
        )

    def _merged(self) -> tuple[tuple[Tensor, ...], Tensor | None, Tensor]:
        """Maps, fine logits and selected cells of the whole batch."""
        logits, importance = self.decision.logits, self.coarse.importance
        selected = torch.full(
            (len(importance), self.num_selected), -1, device=importance.device
        )
        if logits is not None:
            logits = torch.full_like(logits, torch.nan)
        if self.fine is None:
            return tuple(map(_repeat, self.coarse.maps)), logits, selected
        if len(self.hard) == len(importance):
            return self.fine
        easy = self.easy()
        features = tuple(
            _interleave(easy, _repeat(coarse[easy]), self.hard, fine)
            for coarse, fine in zip(
                self.coarse.maps, self.fine.maps, strict=True
            )
        )
        logits.index_copy_(0, self.hard, self.fine.logits.to(logits.dtype))
        selected.index_copy_(0, self.hard, self.fine.selected)
        return features, logits, selected


def _repeat(coarse: Tensor) -> Tensor:
    return F.interpolate(coarse, scale_factor=2, mode='nearest')


def _interleave(
    easy: Tensor, coarse: Tensor, hard: Tensor, fine: Tensor
) -> Tensor:
    """Maps of a batch from those of two parts of it, (B, C, h, w)."""
    out = fine.new_empty(len(easy) + len(hard), *fine.shape[1:])
    out.index_copy_(0, easy, coarse.to(fine.dtype))
    return out.index_copy_(0, hard, fine)

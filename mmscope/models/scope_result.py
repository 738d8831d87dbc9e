"""The record of a pass: what the stages hand to each other and the heads."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from mmscope.functional import merge_rows, to_fine_grid

from .evidence import Evidence
from .refinement import Refinement
from .stages import CoarseStage, FineStage, Maps


class Decision(NamedTuple):
    """The judgement of the coarse answers.

    Attributes:
        confidence: Confidence of the coarse answers (B,), NaN without exit
            head.
        exited: Images that keep them, (B,) bool.
        evidence: Evidence that it rests on.
        compared: Confidences of other policies by their name, (B,) each.
    """

    confidence: Tensor
    exited: Tensor
    evidence: Evidence
    compared: Mapping[str, Tensor]


@dataclass(frozen=True)
class ScopeResult:
    """The record of a pass over a batch, and how each image came by its maps.

    :meth:`MambaScopeBackbone.coarse` starts it and
    :meth:`MambaScopeBackbone.fine` completes it.

    Attributes:
        images: Padded images, (B, 3, H, W).
        valid: Coarse cells that show some of an image (B, N_c), or None for
            all.
        coarse: Coarse stage of all images.
        decision: Judgement of the coarse answers.
        refinement: Which images are refined, and how many cells of each.
        fine: Fine stage of the hard images; None where there are none, or
            before they are refined.
    """

    images: Tensor
    valid: Tensor | None
    coarse: CoarseStage
    decision: Decision
    refinement: Refinement
    fine: FineStage | None = None

    @property
    def hard(self) -> Tensor:
        """Rows of the images to refine, ascending, (K,)."""
        return self.refinement.hard

    @property
    def num_selected(self) -> Tensor:
        """Number of cells that are refined in each image, (B,)."""
        count = torch.zeros_like(self.exited, dtype=torch.long)
        for num, index in self.refinement.groups:
            count[self.hard if index is None else self.hard[index]] = num
        return count

    @property
    def exited(self) -> Tensor:
        """Images that kept their coarse answer, (B,) bool."""
        return self.decision.exited

    @property
    def confidence(self) -> Tensor:
        """Confidence of the coarse answers (B,), NaN without exit head."""
        return self.decision.confidence

    @property
    def importance(self) -> Tensor:
        """Importance of the coarse cells, (B, N_c)."""
        return self.coarse.importance

    @property
    def coarse_features(self) -> Maps:
        """Coarse maps of all images, (B, C, h / 2, w / 2) for each level."""
        return self.coarse.maps

    @property
    def coarse_logits(self) -> Tensor | None:
        """Exit head on the coarse class token (B, K), None without one."""
        return self.decision.evidence.logits

    @property
    def easy(self) -> Tensor:
        """Rows of the images that exited, ascending, (B - K,)."""
        # a sort asks the device for no count
        order = self.exited.byte().argsort(stable=True)
        return order[self.hard.shape[0] :]

    @cached_property
    def features(self) -> Maps:
        """Maps of the pass that each image ended in, (B, C, h, w) a level.

        Coarse ones are repeated over 2x2 cells.
        """
        return self.merged_maps()

    def merged_maps(self) -> Maps:
        """Make :attr:`features` anew; torch.export traces no cached ones."""
        fine = self._refined()
        if fine is None:
            return to_fine_grid(self.coarse.maps)
        if self._all_hard:
            return fine.maps
        easy = self.easy
        return tuple(
            merge_rows(easy, coarse, self.hard, refined)
            for coarse, refined in zip(
                to_fine_grid(tuple(m[easy] for m in self.coarse.maps)),
                fine.maps,
                strict=True,
            )
        )

    def merged_cls(self) -> Tensor:
        """Class token of the pass that each image ended in, (B, C)."""
        fine = self._refined()
        if fine is None:
            return self.coarse.cls
        if self._all_hard:
            return fine.cls
        easy = self.easy
        return merge_rows(easy, self.coarse.cls[easy], self.hard, fine.cls)

    @cached_property
    def fine_logits(self) -> Tensor | None:
        """Exit head on the fine class token, (B, K), NaN where exited.

        None without exit head.
        """
        fine, logits = self._refined(), self.coarse_logits
        if fine is not None and self._all_hard:
            return fine.logits
        if logits is not None:
            logits = torch.full_like(logits, torch.nan)
            if fine is not None:
                refined = fine.logits.to(logits.dtype)
                logits.index_copy_(0, self.hard, refined)
        return logits

    @cached_property
    def selected(self) -> Tensor:
        """Refined coarse cells (B, k), -1 where an image has fewer."""
        fine = self._refined()
        selected = torch.full(
            (self.images.shape[0], self.refinement.most),
            -1,
            device=self.images.device,
        )
        if fine is not None:
            width = fine.selected.shape[1]
            selected[:, :width].index_copy_(0, self.hard, fine.selected)
        return selected

    @property
    def shown_scores(self) -> Tensor | None:
        """Scores of the cells (B, N_c), -inf in the padding.

        None where no image was to be refined, and so none was scored.
        """
        scores = self.refinement.scores
        if scores is None or self.valid is None:
            return scores
        return scores.masked_fill(~self.valid, -inf)

    @cached_property
    def refined_cells(self) -> Tensor:
        """Whether a coarse cell was refined, (B, N_c) bool."""
        count = torch.zeros_like(self.importance, dtype=torch.long)
        chosen = self.selected
        # a scatter has no place for -1: cell 0 is counted as often as there
        # is one of them, by 0
        count.scatter_add_(1, chosen.clamp(min=0), (chosen >= 0).long())
        return count > 0

    def groups(self) -> list[tuple[Tensor | None, Maps]]:
        """The maps that images ended with, coarse ones at stride 2P.

        Returns:
            Rows, None for the whole batch, and their maps, for each of the
            stages that any image ended in.
        """
        fine = self._refined()
        if fine is None:
            return [(None, self.coarse.maps)]
        if self._all_hard:
            return [(None, fine.maps)]
        easy = self.easy
        maps = tuple(m[easy] for m in self.coarse.maps)
        return [(easy, maps), (self.hard, fine.maps)]

    def to_refine(
        self, index: Tensor | None = None
    ) -> tuple[Tensor, CoarseStage, Tensor, Tensor | None]:
        """What the fine pass needs to know of some images.

        Args:
            index: Which of the hard images, or None for all.

        Returns:
            Images, coarse stage, scores of the cells, and valid cells.
        """
        scores = self.refinement.scores
        if self._all_hard and index is None:
            return self.images, self.coarse, scores, self.valid
        rows = self.hard if index is None else self.hard[index]
        valid = self.valid if self.valid is None else self.valid[rows]
        coarse = self.coarse.rows(rows)
        return self.images[rows], coarse, scores[rows], valid

    def all_exited(self) -> 'ScopeResult':
        """The record of the same coarse pass at ``eta=0``."""
        decision = self.decision._replace(exited=torch.ones_like(self.exited))
        nothing = Refinement(self.hard[:0], None, (), self.refinement.most)
        return replace(self, decision=decision, refinement=nothing, fine=None)

    @property
    def _all_hard(self) -> bool:
        return self.hard.shape[0] == self.images.shape[0]

    def _refined(self) -> FineStage | None:
        """The fine stage, None where no image is hard.

        Raises:
            RuntimeError: there are hard images that are not refined yet.
        """
        if self.fine is None and self.hard.shape[0]:
            raise RuntimeError(
                f'{len(self.hard)} images are to be refined yet; call '
                'MambaScopeBackbone.fine on this record first'
            )
        return self.fine

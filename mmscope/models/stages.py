"""The record of a pass: what the stages hand to each other and the heads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from mmscope.functional import merge_rows, to_fine_grid

Maps = tuple[Tensor, ...]


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


@dataclass
class Evidence:
    """What an exit policy may look at.

    Attributes:
        coarse: The coarse stage of B images.
        logits: Exit head on the coarse class token, (B, K).
        content: 1 where a pixel is no padding, (B, 1, H, W).
        paths: File of each image, B, or none at all.
        decoder: Function from coarse maps to the logits of every pixel,
            (B, K, h, w); None in models without any.
        decoded: Logits that :meth:`decode` gave, None until it is called.
    """

    coarse: CoarseStage
    logits: Tensor
    content: Tensor
    paths: Sequence[str]
    decoder: Callable[[Maps], Tensor] | None = None
    decoded: Tensor | None = field(default=None, init=False)

    @property
    def files(self) -> list[str]:
        """File of each image, '' where it has none."""
        return list(self.paths) or [''] * len(self.logits)

    def decode(self) -> Tensor:
        """Decode the coarse maps, once: logits of every pixel, (B, K, h, w).

        Raises:
            TypeError: the model predicts no pixels.
        """
        if self.decoder is None:
            raise TypeError(
                'the exit policy looks at the pixels of the coarse answer, '
                'as mmscope.PixelConfidence does, and this model does not '
                'decode them: use mmscope.MambaScopeSegmentor, or another '
                'exit_policy'
            )
        if self.decoded is None:
            self.decoded = self.decoder(self.coarse.maps)
        return self.decoded


class Decision(NamedTuple):
    """The judgement of the coarse answers.

    Attributes:
        confidence: Confidence of the coarse answers (B,), NaN without exit
            head.
        exited: Images that keep them, (B,) bool.
        evidence: Evidence that it rests on, None without exit head.
        compared: Confidences of other policies by their name, (B,) each.
    """

    confidence: Tensor
    exited: Tensor
    evidence: Evidence | None
    compared: Mapping[str, Tensor]


class FineStage(NamedTuple):
    """What the fine pass returns.

    Attributes:
        maps: One (B, C, h, w) for each level.
        logits: Exit head on the class token (B, K), or None without one.
        selected: Refined coarse cells, (B, k).
    """

    maps: Maps
    logits: Tensor | None
    selected: Tensor


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
        hard: Rows of the others, ascending, (K,).
        num_selected: Number of cells that are refined in an image, k.
        fine: Fine stage of the hard images; None where there are none, or
            before they are refined.
    """

    images: Tensor
    valid: Tensor | None
    coarse: CoarseStage
    decision: Decision
    hard: Tensor
    num_selected: int
    fine: FineStage | None = None

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
        evidence = self.decision.evidence
        return None if evidence is None else evidence.logits

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
        """Refined coarse cells (B, k), -1 where an image exited."""
        fine = self._refined()
        if fine is not None and self._all_hard:
            return fine.selected
        selected = torch.full(
            (self.images.shape[0], self.num_selected),
            -1,
            device=self.images.device,
        )
        if fine is not None:
            selected.index_copy_(0, self.hard, fine.selected)
        return selected

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

    def to_refine(self) -> tuple[Tensor, CoarseStage, Tensor | None]:
        """Images, coarse stage and valid cells of the hard images."""
        if self._all_hard:
            return self.images, self.coarse, self.valid
        valid = self.valid if self.valid is None else self.valid[self.hard]
        return self.images[self.hard], self.coarse.rows(self.hard), valid

    def all_exited(self) -> 'ScopeResult':
        """The record of the same coarse pass at ``eta=0``."""
        decision = self.decision._replace(exited=torch.ones_like(self.exited))
        return replace(self, decision=decision, hard=self.hard[:0], fine=None)

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


def hard_rows(exited: Tensor, eta: float) -> Tensor:
    """Rows of the images to refine, (K,); asks the device only if it has to.

    Args:
        exited: Images that keep their coarse answer, (B,) bool.
        eta: Threshold that they were decided at.
    """
    if eta in (0, 1):
        count = exited.shape[0] if eta == 1 else 0
        return torch.arange(count, device=exited.device)
    # the one synchronisation with the host
    return exited.logical_not().nonzero().squeeze(1)

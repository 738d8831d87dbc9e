"""The modules that are exported: a coarse pass, its decoding, a fine pass."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmscope.functional import content_mask, num_selected, valid_cells
from mmscope.models.refinement import refine_alike
from mmscope.models.scope_result import Decision, ScopeResult
from mmscope.models.stages import CoarseStage, Maps

Size = tuple[int, int]


class ScopeGraph(nn.Module):
    """Base of the graphs: images of one size, any number of them.

    Args:
        model: A segmentor or classifier of mmscope, in evaluation mode.
        size: Height and width of its images.
        state: Names of what the coarse graph hands on, see :func:`state_of`.
    """

    def __init__(
        self, model: nn.Module, size: Size, state: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.model, self.size, self.state = model, size, state
        side = model.backbone.size_divisor
        self.canvas = tuple(-(-pixels // side) * side for pixels in size)

    def pad(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pad normalised images as the data preprocessor does.

        Args:
            images: (B, 3, h, w).

        Returns:
            Images on the canvas (B, 3, H, W), and 1 where that shows some of
            them, (B, 1, H, W), or None for everywhere.
        """
        if self.canvas == self.size:
            return images, None
        below, beside = (
            canvas - pixels
            for canvas, pixels in zip(self.canvas, self.size, strict=True)
        )
        content = content_mask([self.size], self.canvas, images)
        content = content.expand(images.shape[0], -1, -1, -1)
        return F.pad(images, (0, beside, 0, below)), content

    def decode(self, maps: Maps, coarse: bool) -> Tensor:
        """Logits of the pixels by the maps of a pass, (B, K, H, W)."""
        return self.model.decode_stage(maps, self.canvas, coarse)

    def pixel_answers(self, logits: Tensor) -> dict[str, Tensor]:
        """Logits (B, K, h, w) without the padding, and labels (B, h, w)."""
        logits = logits[..., : self.size[0], : self.size[1]]
        labels = self.model.labels_of(logits)
        return dict(logits=logits, labels=labels.to(torch.int32))


class CoarseGraph(ScopeGraph):
    """The coarse pass, how sure it is, and what others read of it.

    :attr:`outputs` names what a call returns; it is known after the first.
    """

    def __init__(
        self, model: nn.Module, size: Size, state: tuple[str, ...]
    ) -> None:
        super().__init__(model, size, state)
        self.outputs: tuple[str, ...] = ()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return confidence (B,), cell scores (B, N_c), answers and state.

        Args:
            image: Normalised images, (B, 3, h, w).
        """
        images, content = self.pad(image)
        model = self.model
        with model.in_context(content=content), model.deciding(images):
            # at 1 every image is scored; who serves it decides
            result = model.backbone.coarse(images, eta=1.0)
        evidence = result.decision.evidence
        found = dict(
            confidence=result.confidence, scores=result.refinement.scores
        )
        if not model.predicts_pixels:
            found['logits'] = result.coarse_logits
        elif evidence.decoded is not None:
            found |= self.pixel_answers(evidence.decoded)
        handed = state_of(result.coarse)
        found |= {name: handed[name] for name in self.state}
        self.outputs = tuple(found)
        return tuple(found.values())


class DecodeGraph(ScopeGraph):
    """Answers of a segmentor to the images that exit."""

    outputs = ('logits', 'labels')

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, K, h, w) and labels (B, h, w).

        Args:
            *maps: Coarse maps, (B, C, H / 2P, W / 2P) for each level.
        """
        return tuple(
            self.pixel_answers(self.decode(maps, coarse=True)).values()
        )


class FineGraph(ScopeGraph):
    """The fine pass over a fixed share of the cells.

    Args:
        model: A segmentor or classifier of mmscope, in evaluation mode.
        size: Height and width of its images.
        state: Names of what the coarse graph hands on.
        share: Share of the coarse cells to refine.
    """

    def __init__(
        self,
        model: nn.Module,
        size: Size,
        state: tuple[str, ...],
        share: float,
    ) -> None:
        super().__init__(model, size, state)
        cell = 2 * model.backbone.patch_size
        num_cells = (self.canvas[0] // cell) * (self.canvas[1] // cell)
        self.num = num_selected(share, num_cells)
        self.outputs = ('logits',)
        if model.predicts_pixels:
            self.outputs = ('logits', 'labels')

    def forward(
        self, image: Tensor, scores: Tensor, *state: Tensor
    ) -> tuple[Tensor, ...]:
        """Return logits, (B, K) or (B, K, h, w) with labels (B, h, w).

        Args:
            image: Normalised images, (B, 3, h, w).
            scores: Scores of their cells, (B, N_c).
            *state: What the coarse graph hands on, by ``state``.
        """
        images, content = self.pad(image)
        backbone = self.model.backbone
        valid = None
        if content is not None:
            valid = valid_cells(content, 2 * backbone.patch_size).flatten(1)
        coarse = stage_of(dict(zip(self.state, state, strict=True)), scores)
        exited = torch.zeros_like(scores[:, 0], dtype=torch.bool)
        decision = Decision(scores[:, 0], exited, None, {})
        refinement = refine_alike(exited, 1, self.num, lambda: scores)
        fine = backbone.fine(
            ScopeResult(images, valid, coarse, decision, refinement)
        ).fine
        if not self.model.predicts_pixels:
            return (fine.logits,)
        logits = self.decode(fine.maps, coarse=False)
        return tuple(self.pixel_answers(logits).values())


def state_of(coarse: CoarseStage) -> dict[str, Tensor]:
    """What a coarse stage has, by name: its maps are 'map0', 'map1', ..."""
    parts = dict(tokens=coarse.tokens, features=coarse.features)
    parts['cls'] = coarse.cls
    parts |= {f'map{level}': m for level, m in enumerate(coarse.maps)}
    return {name: part for name, part in parts.items() if part is not None}


def stage_of(state: dict[str, Tensor], scores: Tensor) -> CoarseStage:
    """Undo :func:`state_of`; parts that nothing reads may be missing.

    Args:
        state: Parts of a coarse stage by name.
        scores: Scores of its cells, in place of their importance.
    """
    maps = tuple(part for name, part in state.items() if name[:3] == 'map')
    return CoarseStage(
        state.get('tokens'),
        state.get('features'),
        state.get('cls'),
        maps,
        scores,
    )

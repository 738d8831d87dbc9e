"""Scores that say which coarse cells of an image are refined first."""

import random
from abc import ABCMeta, abstractmethod

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmscope.functional.cells import cell_means, cell_variance
from mmscope.functional.checks import check_choice
from mmscope.registry import MODELS

from .evidence import Evidence
from .exit_policies import image_key
from .scope_result import ScopeResult

TARGETS = ('error', 'change')


class CellScore(BaseModule, metaclass=ABCMeta):
    """What refining each coarse cell of an image is worth.

    Set ``cell_score`` of the backbone to one of them; the cells with the
    highest scores are refined. With ``tau``, cells with scores above it are
    wanted. A subclass registered in ``mmscope.registry.MODELS`` is a score
    of your own.

    Attributes:
        label: What pictures call it.
        decodes: Whether it decodes the coarse maps of every image.
        needs_pixels: Whether the model must predict pixels.
        needs_truth: Whether it compares them with the ground truth.
        reads_features: Whether it reads the coarse tokens after the final
            norm.
        reads_maps: Whether it compares the maps of both passes in training.
    """

    label = 'score'
    decodes = False
    needs_pixels = False
    needs_truth = False
    reads_features = False
    reads_maps = False

    @abstractmethod
    def forward(self, evidence: Evidence) -> Tensor:
        """Score the cells of B images, (B, N_c); higher is refined first."""

    def loss(self, result: ScopeResult) -> dict[str, Tensor]:
        """Losses that train the score beside the task; most have none.

        Args:
            result: Record of both passes, as in training.
        """
        return {}


@MODELS.register_module()
class Importance(CellScore):
    """The paper's score: activations of the state-space model (Eq. 11-12).

    Metric, merge of directions and smoothing are the backbone's
    ``importance``, ``score_layers`` and ``beta``.

    Args:
        largest_first: Whether the most important cells are refined; the
            least important ones if False.
    """

    label = 'importance'

    def __init__(self, largest_first: bool = True) -> None:
        super().__init__()
        self.largest_first = largest_first
        if not largest_first:
            self.label = 'unimportance'

    def forward(self, evidence: Evidence) -> Tensor:
        """Importance of the cells, (B, N_c)."""
        importance = evidence.coarse.importance
        return importance if self.largest_first else -importance


@MODELS.register_module()
class CoarseUncertainty(CellScore):
    """How unsure the coarse answer is of its pixels.

    The mean of 1 - max p over the pixels of a cell, in [0, 1]. The coarse
    maps are decoded before anything is refined, once for this score, for an
    exit policy such as :class:`PixelConfidence`, and for the answer of
    images that exit.
    """

    label = 'uncertainty'
    decodes = needs_pixels = True

    def forward(self, evidence: Evidence) -> Tensor:
        """Uncertainty of the cells, (B, N_c).

        Raises:
            TypeError: the model predicts no pixels.
        """
        doubt = 1 - evidence.certainty(f'cell_score={type(self).__name__}')
        return cell_means(doubt, evidence.content, evidence.cell_side)


@MODELS.register_module()
class CellContrast(CellScore):
    """Variance of the grey value in each cell: no learning at all."""

    label = 'contrast'

    def forward(self, evidence: Evidence) -> Tensor:
        """Variances in units of the normalised image, (B, N_c)."""
        return cell_variance(
            evidence.images, evidence.content, evidence.cell_side
        )


@MODELS.register_module(name='Random')
class RandomCells(CellScore):
    """Chance: the least that a score must beat.

    The scores of an image follow from its path and the seed, so that they do
    not depend on its batch mates; images without a file draw anew.

    Args:
        seed: Seed of the draws.
    """

    label = 'chance'

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self._unnamed = random.Random(seed)

    def forward(self, evidence: Evidence) -> Tensor:
        """Scores, uniform in [0, 1), (B, N_c)."""
        importance, rows = evidence.coarse.importance, []
        for path in evidence.files:
            named = random.Random(f'{self.seed} {image_key(path)}')
            seed = (named if path else self._unnamed).getrandbits(63)
            generator = torch.Generator().manual_seed(seed)
            rows.append(torch.rand(importance.shape[1], generator=generator))
        return torch.stack(rows).to(importance.device)


@MODELS.register_module(name='Oracle')
class OracleCells(CellScore):
    """The share of a cell's pixels that the coarse answer gets wrong.

    A bound for other scores: it needs the ground truth of every image, and
    it is greedy, since it does not know what refining a cell would mend.
    """

    label = 'coarse errors'
    decodes = needs_pixels = needs_truth = True

    def forward(self, evidence: Evidence) -> Tensor:
        """Shares, (B, N_c).

        Raises:
            TypeError: the model predicts no pixels, or there is no ground
                truth.
        """
        return _cell_errors(evidence, f'cell_score={type(self).__name__}')


@MODELS.register_module()
class LearnedCells(CellScore):
    """A linear layer on the coarse tokens, trained beside the task.

    It predicts a share in [0, 1] from tokens that it takes as they are: the
    task does not notice it. What it predicts is

    - 'error': the share of a cell's pixels that the coarse answer gets
      wrong, in segmentation;
    - 'change': how far refining turns the features of a cell, 1 minus the
      cosine of coarse and mean fine features of the last level, at most 1.
      It needs no labels, and cells that are not refined teach nothing.

    Args:
        in_channels: Channels C of the tokens; the backbone sets it.
        target: What is predicted, 'error' or 'change'.
        loss_weight: Weight of the binary cross-entropy.

    Raises:
        ValueError: ``target`` is unknown.
    """

    reads_features = True

    def __init__(
        self,
        in_channels: int,
        target: str = 'change',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_choice('target', target, TARGETS)
        self.target = target
        self.label = f'predicted {target}'
        self.loss_weight = loss_weight
        self.needs_pixels = self.needs_truth = target == 'error'
        self.reads_maps = target == 'change'
        self.linear = nn.Linear(in_channels, 1)

    def forward(self, evidence: Evidence) -> Tensor:
        """Predicted shares, (B, N_c)."""
        return self._logits(evidence).sigmoid()

    def loss(self, result: ScopeResult) -> dict[str, Tensor]:
        """Binary cross-entropy with the shares, as ``loss_cells``.

        Args:
            result: Record of both passes, as in training.

        Raises:
            TypeError: the target is 'error' and the model predicts no pixels
                or there is no ground truth.
        """
        evidence = result.decision.evidence
        if self.target == 'error':
            target = _cell_errors(evidence, "LearnedCells(target='error')")
            weight = _shown(result)
        else:
            target, weight = _cell_changes(result)
        losses = F.binary_cross_entropy_with_logits(
            self._logits(evidence), target, reduction='none'
        )
        mean = (losses * weight).sum() / weight.sum().clamp(min=1)
        return dict(loss_cells=self.loss_weight * mean)

    def _logits(self, evidence: Evidence) -> Tensor:
        features = evidence.coarse.features.detach()
        return self.linear(features).squeeze(2).float()


def score_class(config: dict | None) -> type[CellScore]:
    """The class of a config of a score, :class:`Importance` for None.

    Raises:
        ValueError: it is the config of something else.
    """
    kind = Importance if config is None else None
    if isinstance(config, dict):
        kind = config.get('type')
    if isinstance(kind, str):
        kind = MODELS.get(kind)
    if not (isinstance(kind, type) and issubclass(kind, CellScore)):
        names = ', '.join(
            f"'mmscope.{name}'"
            for name, known in MODELS.module_dict.items()
            if isinstance(known, type) and issubclass(known, CellScore)
        )
        raise ValueError(
            f'cell_score must be the config of a CellScore, dict(type=...) '
            f'with one of {names}, got {config!r}'
        )
    return kind


def _cell_errors(evidence: Evidence, who: str) -> Tensor:
    """Share of each cell's pixels that the coarse answer gets wrong."""
    wrong, judged = evidence.errors(who)
    return cell_means(wrong, judged, evidence.cell_side)


@torch.no_grad()
def _cell_changes(result: ScopeResult) -> tuple[Tensor, Tensor]:
    """How far refining turned each cell's features, and which cells count."""
    fine = F.avg_pool2d(result.features[-1], 2).flatten(2)
    coarse = result.coarse.maps[-1].flatten(2)
    cosine = F.cosine_similarity(fine.float(), coarse.float(), dim=1)
    return (1 - cosine).clamp(0, 1), result.refined_cells * _shown(result)


def _shown(result: ScopeResult) -> Tensor:
    """1 for the cells that show some of an image, (B, N_c)."""
    if result.valid is None:
        return torch.ones_like(result.importance, dtype=torch.float32)
    return result.valid.float()

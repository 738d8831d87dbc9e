"""What a segmentor, detector or classifier needs to supervise its exits."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmscope.functional import content_mask
from mmscope.functional.checks import check_choice
from mmscope.functional.losses import CONSISTENCIES

from .exit_context import ExitContext, changed_context
from .exit_control import coarse_answers, collect_passes
from .mambascope import MambaScopeBackbone
from .scope_result import ScopeResult

BATCH_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
)


def refuse_pretrained(pretrained: str | None) -> None:
    """Refuse what mm libraries hand to backbones of their own.

    Args:
        pretrained: Argument of a model; None, as their base configs have it.

    Raises:
        ValueError: it names weights.
    """
    if pretrained is not None:
        raise ValueError(
            f'pretrained={pretrained!r} is for other backbones; set '
            'pretrained=None, and weights of this one with '
            "backbone=dict(init_cfg=dict(type='Pretrained', "
            'checkpoint=...))'
        )


class EarlyExitMixin(nn.Module):
    """Mixin of a model whose backbone is a :class:`MambaScopeBackbone`.

    It weighs the two terms of Eq. 21, tells the backbone what is padding, and
    writes into predictions how they came about. Put it before the class of
    mmseg, mmdet or mmpretrain, whose constructor gets all other arguments.

    Args:
        *args: Arguments of the model.
        exit_weight: Weight of the exit head's supervised loss.
        consistency_weight: Weight of the KL term.
        consistency: Form of the KL term, 'teacher' or 'eq21', see
            :func:`mmscope.functional.consistency_loss`.
        coarse_decode_weight: Weight of the task loss on coarse maps.
        **kwargs: Keyword arguments of the model, which it checks.

    Attributes:
        task_head: Name of the head whose ``num_classes`` the exit head must
            have, for errors.
        predicts_pixels: Whether it predicts a class for every pixel.
        reads: What it reads of the backbone, which its ``out_type`` must be.

    Raises:
        TypeError: the backbone is no MambaScopeBackbone.
        ValueError: it has no exit head or one of other classes, or a weight
            is negative.
    """

    backbone: MambaScopeBackbone
    num_classes: int
    task_head: str
    predicts_pixels = False
    reads = 'featmap'

    def __init__(
        self,
        *args: object,
        exit_weight: float = 1.0,
        consistency_weight: float = 1.0,
        consistency: str = 'teacher',
        coarse_decode_weight: float = 0.0,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._check_backbone()
        check_choice('consistency', consistency, CONSISTENCIES)
        weights = dict(
            exit_weight=exit_weight,
            consistency_weight=consistency_weight,
            coarse_decode_weight=coarse_decode_weight,
        )
        for key, value in weights.items():
            if not value >= 0:
                raise ValueError(f'{key} must not be negative, got {value}')
        self.exit_weight = exit_weight
        self.consistency_weight = consistency_weight
        self.consistency = consistency
        self.coarse_decode_weight = coarse_decode_weight

    def _check_backbone(self) -> None:
        name = type(self).__name__
        if not isinstance(self.backbone, MambaScopeBackbone):
            raise TypeError(
                f"{name} needs backbone=dict(type='mmscope."
                f"MambaScopeBackbone'), got {type(self.backbone).__name__}"
            )
        if self.backbone.exit_head is None:
            raise ValueError(
                f'{name} supervises an exit head, and the backbone has '
                'exit_head=None; give it one, or use the plain model of '
                'mmseg or mmdet'
            )
        if self.backbone.out_type != self.reads:
            raise ValueError(
                f'{name} reads the {self.reads} of its backbone, whose '
                f'out_type is {self.backbone.out_type!r}; set '
                f'backbone.out_type={self.reads!r}'
            )
        score = self.backbone.cell_score
        if score.needs_pixels and not self.predicts_pixels:
            raise ValueError(
                f'cell_score={type(score).__name__} looks at the pixels of '
                f'the coarse answer, which {name} does not predict; use '
                "another cell_score, such as dict(type='mmscope.LearnedCells')"
            )
        exit_classes = self.backbone.exit_head.num_classes
        if exit_classes != self.num_classes:
            raise ValueError(
                f'exit_head.num_classes={exit_classes} must equal '
                f'{self.task_head}.num_classes={self.num_classes}'
            )

    @abstractmethod
    def classes_shown(self, sample: BaseDataElement) -> Tensor:
        """Classes that a sample's ground truth has, multi-hot, (1, K).

        Raises:
            ValueError: a label is out of range.
        """

    def exit_target(self, samples: Sequence[BaseDataElement]) -> Tensor:
        """What the exit head is to say of each sample, (B, K).

        Raises:
            ValueError: a label is out of range; the file is named.
        """
        targets = []
        for sample in samples:
            try:
                targets.append(self.classes_shown(sample))
            except ValueError as err:
                info = sample.metainfo
                path = info.get('seg_map_path', info.get('img_path', 'image'))
                raise ValueError(f'{path}: {err}') from err
        return torch.cat(targets)

    def exit_losses(
        self, result: ScopeResult, target: Tensor
    ) -> dict[str, Tensor]:
        """Weighted losses of the exit head and, if it learns, of cell scores.

        Args:
            result: Record of both passes, as in training.
            target: Ground truth as the exit head's ``supervision`` takes it.
        """
        losses = self.backbone.exit_head.loss(
            result.coarse_logits, result.fine_logits, target, self.consistency
        )
        return dict(
            loss_exit=self.exit_weight * losses['loss_exit'],
            loss_consistency=self.consistency_weight
            * losses['loss_consistency'],
            **self.backbone.cell_score.loss(result),
        )

    def weigh_coarse(self, losses: dict) -> dict:
        """Weigh and rename the losses of the coarse maps.

        Args:
            losses: Losses as mmseg and mmdet name them: values whose name
                has 'loss' in it are tensors, or lists of tensors.
        """
        weight = self.coarse_decode_weight
        weighed = {}
        for name, value in losses.items():
            if 'loss' in name:
                value = (
                    [weight * part for part in value]
                    if isinstance(value, list)
                    else weight * value
                )
            weighed[f'coarse_{name}'] = value
        return weighed

    def in_context(
        self, **changes: object
    ) -> AbstractContextManager[ExitContext]:
        """Change what the backbone is told; see :func:`changed_context`."""
        return changed_context(self.backbone, **changes)

    def showing(
        self, inputs: Tensor, samples: Sequence[BaseDataElement] | None
    ) -> AbstractContextManager[ExitContext]:
        """Tell the backbone which images it is about to get.

        Args:
            inputs: Padded images, (B, 3, H, W).
            samples: Samples with ``img_shape``, and ``img_path`` where they
                have a file; None if all pixels are content.
        """
        canvas = tuple(inputs.shape[2:])
        metas = [one.metainfo for one in samples or ()]
        sizes = [tuple(meta.get('img_shape', canvas)[:2]) for meta in metas]
        return self.in_context(
            content=content_mask(
                sizes or [canvas] * len(inputs), canvas, inputs
            ),
            paths=[meta.get('img_path', '') for meta in metas],
            truth=self.labels_shown(inputs, samples),
        )

    def labels_shown(
        self, inputs: Tensor, samples: Sequence[BaseDataElement] | None
    ) -> Tensor | None:
        """Label of every pixel, for the cell scores that ask for it.

        Args:
            inputs: Padded images, (B, 3, H, W).
            samples: Samples with ground truth, or without, or None.

        Returns:
            (B, H, W), -1 where a pixel does not count; None where it is not
            known, or not asked for.
        """
        return None

    def deciding(
        self, inputs: Tensor, batch_img_metas: list[dict] | None = None
    ) -> AbstractContextManager[ExitContext]:
        """Let policies decode the coarse maps, in models that predict pixels.

        Args:
            inputs: Images that are decided about, (B, 3, H, W).
            batch_img_metas: Metas of these, as decode heads take them; by
                default the size of ``inputs``.
        """
        return self.in_context()

    def write_exit_info(
        self,
        samples: list[BaseDataElement],
        passes: Sequence[ScopeResult],
        as_share: bool = False,
    ) -> list[BaseDataElement]:
        """Write into predictions how they came about.

        Args:
            samples: Predictions, B; get ``exited``, ``exit_confidence``,
                ``exit_scores`` (K,), ``refined_share``, the share of cells
                that were refined, ``cell_scores`` (N_c,), -inf in the
                padding, where a single pass scored them, and, where policies
                are compared, ``exit_confidences``.
            passes: Record of the pass over all of them, or one for each
                window, which are averaged.
            as_share: Whether ``exited`` is the share of windows.
        """
        decisions = [one.decision for one in passes]
        prob = self.backbone.exit_head.probabilities
        scores = [prob(one.evidence.logits) for one in decisions]
        scores = torch.stack(scores).mean(0)
        names = list(decisions[0].compared)
        columns = [
            (
                one.exited,
                one.confidence,
                record.num_selected / record.importance.shape[1],
                *one.compared.values(),
            )
            for one, record in zip(decisions, passes, strict=True)
        ]
        table = torch.stack(
            [torch.stack([c.float() for c in one], dim=1) for one in columns]
        )
        # all in one transfer from the device
        rows = table.mean(0).tolist()
        cells = passes[0].shown_scores if len(passes) == 1 else None
        for index, (sample, row, score) in enumerate(
            zip(samples, rows, scores, strict=True)
        ):
            share, sample.exit_confidence, refined, *others = row
            # of float32, whose 0.2 is 0.2000000030
            sample.refined_share = round(refined, 6)
            sample.exited = share if as_share else bool(share)
            sample.exit_scores = score
            if cells is not None:
                sample.cell_scores = cells[index]
            if names:
                confidences = dict(zip(names, others, strict=True))
                sample.exit_confidences = confidences
        return samples

    def val_step(self, data: dict) -> list[BaseDataElement]:
        """Predict; see :meth:`test_step`."""
        return self._predict_both(super().val_step, data)

    def test_step(self, data: dict) -> list[BaseDataElement]:
        """Predict, with the ``coarse_answer`` beside if that is kept.

        Args:
            data: 'inputs' and 'data_samples', as mmengine's.
        """
        return self._predict_both(super().test_step, data)

    def _predict_both(
        self, predict: Callable[[dict], list], data: dict
    ) -> list[BaseDataElement]:
        if not (self.test_cfg or {}).get('keep_coarse', False):
            return predict(data)
        # a prediction writes to its samples
        copies = [sample.clone() for sample in data['data_samples']]
        with collect_passes(self) as passes:
            samples = predict(data)
        with coarse_answers(self, passes):
            answers = predict(dict(data, data_samples=copies))
        for sample, answer in zip(samples, answers, strict=True):
            sample.coarse_answer = answer
        return samples


class evaluated:  # noqa: N801 - reads as a statement
    """Let modules run as in inference, in a block.

    Args:
        *modules: Modules that are meant, with all in them; None is skipped.
    """

    kinds: tuple[type[nn.Module], ...] = (nn.Module,)

    def __init__(self, *modules: nn.Module | None) -> None:
        self.layers = [
            layer
            for module in modules
            if module is not None
            for layer in module.modules()
            if isinstance(layer, self.kinds) and layer.training
        ]

    def __enter__(self) -> None:
        for layer in self.layers:
            layer.training = False

    def __exit__(self, *_: object) -> None:
        for layer in self.layers:
            layer.training = True


class frozen_batch_norm(evaluated):  # noqa: N801 - reads as a statement
    """Normalise with running statistics, and leave them alone, in a block.

    Coarse maps have other statistics than fine ones. Where both pass the
    same BatchNorm in training, only the fine ones may set what inference
    uses; and the coarse ones are normalised just as inference will do it.

    Args:
        *modules: Modules whose BatchNorm layers are meant; None is skipped.
    """

    kinds = BATCH_NORMS

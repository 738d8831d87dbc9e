"""Classification with early exit, over mmpretrain."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mmscope.registry import MODELS
from mmscope.utils.versions import require

from .early_exit import EarlyExitMixin, refuse_pretrained
from .exit_control import collect_passes
from .scope_result import ScopeResult

require('mmpretrain')

from mmpretrain.models import ImageClassifier  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402


@MODELS.register_module()
class MambaScopeClassifier(EarlyExitMixin, ImageClassifier):
    """ImageClassifier whose classes are those of the backbone's exit head.

    As in the paper one linear layer on the class token classifies after
    either pass. Training takes the cross-entropy of the fine answer and the
    consistency of both (Eq. 21), with labels or with the soft labels of
    mixup and cutmix. An image that exits is classified by its coarse token.

    Args:
        backbone: Config of a :class:`MambaScopeBackbone` with
            ``out_type='cls_token'`` whose exit head is a
            :class:`SingleLabelExitHead`.
        exit_weight: Weight of the cross-entropy.
        consistency_weight: Weight of the KL term.
        consistency: 'teacher' or 'eq21', see
            :func:`mmscope.functional.consistency_loss`.
        coarse_decode_weight: Beyond the paper: weight of the cross-entropy of
            the coarse answer.
        train_cfg: mmpretrain's: its ``augments`` are batch augmentations.
        test_cfg: Options for testing: ``keep_coarse``.
        data_preprocessor: Config of mmpretrain's ``ClsDataPreprocessor``.
        pretrained: None, as mmpretrain's base configs have it.
        init_cfg: mmengine's.

    Raises:
        TypeError: the exit head is none of a single label.
        ValueError: ``pretrained`` names weights, or see
            :class:`EarlyExitMixin`.

    Examples:
        >>> head = dict(type='mmscope.SingleLabelExitHead', num_classes=10)
        >>> model = MambaScopeClassifier(
        ...     dict(
        ...         type='mmscope.MambaScopeBackbone',
        ...         out_type='cls_token',
        ...         exit_head=head,
        ...     )
        ... )
        >>> model.eval()(torch.rand(2, 3, 224, 224)).shape
        torch.Size([2, 10])
    """

    task_head: ClassVar[str] = 'exit_head'
    reads = 'cls_token'

    def __init__(
        self,
        backbone: dict,
        exit_weight: float = 1.0,
        consistency_weight: float = 1.0,
        consistency: str = 'teacher',
        coarse_decode_weight: float = 0.0,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        pretrained: str | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        refuse_pretrained(pretrained)
        super().__init__(
            backbone=backbone,
            # no layer of its own: it turns logits into predictions
            head=dict(type='mmpretrain.ClsHead'),
            train_cfg=train_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
            exit_weight=exit_weight,
            consistency_weight=consistency_weight,
            consistency=consistency,
            coarse_decode_weight=coarse_decode_weight,
        )
        self.test_cfg = test_cfg
        head = self.backbone.exit_head
        if head.labels != 'single':
            raise TypeError(
                'MambaScopeClassifier needs an exit head of a single label, '
                "exit_head=dict(type='mmscope.SingleLabelExitHead', "
                f'num_classes=...), got {type(head).__name__}'
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, those of the exit head."""
        return self.backbone.exit_head.num_classes

    def classes_shown(self, sample: DataSample) -> Tensor:
        """Probability of each class by the ground truth, (1, K)."""
        if 'gt_score' in sample:
            return sample.gt_score.unsqueeze(0)
        label = sample.gt_label
        if label.numel() != 1:
            raise ValueError(
                f'one label is needed, got {label.tolist()}; for several '
                'classes in an image use mmpretrain with its own heads'
            )
        if not 0 <= label.item() < self.num_classes:
            raise ValueError(
                f'label {label.item()} is not in [0, {self.num_classes - 1}]; '
                'set exit_head.num_classes to the number of classes'
            )
        return F.one_hot(label, self.num_classes).float()

    def loss(
        self, inputs: Tensor, data_samples: list[DataSample]
    ) -> dict[str, Tensor]:
        """Cross-entropy of the answers, and their consistency.

        Args:
            inputs: Images, (B, 3, H, W).
            data_samples: With ``gt_label``, or ``gt_score`` (K,).
        """
        target = self.exit_target(data_samples)
        with self.showing(inputs, data_samples):
            result = self.backbone.scope(inputs)
        losses = self.exit_losses(result, target)
        if self.coarse_decode_weight > 0:
            coarse = self.backbone.exit_head.supervision(
                result.coarse_logits, target
            )
            losses.update(self.weigh_coarse(dict(loss_exit=coarse)))
        return losses

    def predict(
        self,
        inputs: Tensor,
        data_samples: list[DataSample] | None = None,
        **kwargs: object,
    ) -> list[DataSample]:
        """Classify images.

        Args:
            inputs: Images, (B, 3, H, W).
            data_samples: Samples of the images, or None.
            **kwargs: Passed on to mmpretrain's.

        Returns:
            Samples with ``pred_score`` and ``pred_label``, and with
            ``exited`` and ``exit_confidence`` beside.
        """
        with (
            self.showing(inputs, data_samples),
            collect_passes(self) as passes,
        ):
            samples = super().predict(inputs, data_samples, **kwargs)
        return self.write_exit_info(samples, passes)

    def extract_feat(
        self, inputs: Tensor, stage: str = 'neck'
    ) -> tuple[Tensor, ...]:
        """What the head gets: logits, of the pass that an image ended in.

        Args:
            inputs: Images, (B, 3, H, W).
            stage: 'neck' for logits, 'backbone' for class tokens.

        Returns:
            Logits (B, K), or class tokens (B, C), in a tuple of one.

        Raises:
            ValueError: there is no such stage.
        """
        if stage == 'backbone':
            return self.backbone(inputs)
        if stage != 'neck':
            raise ValueError(
                f"stage must be 'backbone' or 'neck', got {stage!r}: the exit "
                'head, inside the backbone, is the last layer'
            )
        return (answers_of(self.backbone.scope(inputs)),)


def answers_of(result: ScopeResult) -> Tensor:
    """Logits of the pass that each image ended in, (B, K)."""
    coarse = result.coarse_logits
    fine = result.fine_logits.to(coarse.dtype)
    return torch.where(result.exited.unsqueeze(1), coarse, fine)


__all__ = ['MambaScopeClassifier']

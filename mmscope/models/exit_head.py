"""Heads on the class token that decide about early exit."""

from abc import ABCMeta, abstractmethod

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmscope.functional import (
    consistency_loss,
    multi_label_confidence,
    single_label_confidence,
)
from mmscope.functional.checks import check_choice
from mmscope.functional.confidence import MULTI_LABEL_CONFIDENCES
from mmscope.registry import MODELS


class ExitHead(BaseModule, metaclass=ABCMeta):
    """A linear classifier on the class token of both stages.

    Args:
        num_classes: Classes K.
        in_channels: Channels C of the class token; the backbone fills it in.
        init_cfg: mmengine's.
    """

    labels: str

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if num_classes < 1:
            raise ValueError(
                f'num_classes must be positive, got {num_classes}'
            )
        self.num_classes = num_classes
        self.fc = nn.Linear(in_channels, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal of deviation 0.02, as Vim's head."""
        nn.init.trunc_normal_(self.fc.weight, std=0.02)
        nn.init.zeros_(self.fc.bias)

    def forward(self, cls: Tensor) -> Tensor:
        """Classify class tokens: (B, C) to logits (B, K)."""
        return self.fc(cls)

    @abstractmethod
    def confidence(self, logits: Tensor) -> Tensor:
        """Confidence of each prediction: (B, K) to (B,) in [0, 1]."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of each class in float32: (B, K) to (B, K)."""

    @abstractmethod
    def supervision(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of the logits against the ground truth, a scalar."""

    def loss(
        self,
        coarse_logits: Tensor,
        fine_logits: Tensor,
        target: Tensor,
        consistency: str = 'teacher',
    ) -> dict[str, Tensor]:
        """Both terms of Eq. 21.

        Args:
            coarse_logits: q, (B, K).
            fine_logits: p, (B, K).
            target: Ground truth, as :meth:`supervision` takes it.
            consistency: Form of the KL term, see
                :func:`mmscope.functional.consistency_loss`.

        Returns:
            'loss_exit' and 'loss_consistency', unweighted scalars.
        """
        return dict(
            loss_exit=self.supervision(fine_logits, target),
            loss_consistency=consistency_loss(
                coarse_logits, fine_logits, self.labels, consistency
            ),
        )


@MODELS.register_module()
class MultiLabelExitHead(ExitHead):
    """Which of K classes an image shows, for dense tasks.

    Args:
        num_classes: Classes K.
        in_channels: Channels of the class token; the backbone fills it in.
        confidence: Rule that makes one confidence of K probabilities, see
            :func:`mmscope.functional.multi_label_confidence`.
        init_cfg: mmengine's.
    """

    labels = 'multi'

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        confidence: str = 'mean_positive',
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        check_choice('confidence', confidence, MULTI_LABEL_CONFIDENCES)
        super().__init__(num_classes, in_channels, init_cfg)
        self.confidence_mode = confidence

    def confidence(self, logits: Tensor) -> Tensor:
        """See :func:`mmscope.functional.multi_label_confidence`."""
        return multi_label_confidence(logits, self.confidence_mode)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoid: classes do not exclude each other."""
        return logits.float().sigmoid()

    def supervision(self, logits: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy with a multi-hot target (B, K)."""
        return F.binary_cross_entropy_with_logits(logits.float(), target)


@MODELS.register_module()
class SingleLabelExitHead(ExitHead):
    """Which of K classes an image is of, for classification.

    Args:
        num_classes: Classes K.
        in_channels: Channels of the class token; the backbone fills it in.
        label_smoothing: Share of the target that is spread evenly over all
            classes, in [0, 1).
        init_cfg: mmengine's.

    Raises:
        ValueError: ``label_smoothing`` is out of range.
    """

    labels = 'single'

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        label_smoothing: float = 0.0,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f'label_smoothing must be in [0, 1), got {label_smoothing}'
            )
        super().__init__(num_classes, in_channels, init_cfg)
        self.label_smoothing = label_smoothing

    def confidence(self, logits: Tensor) -> Tensor:
        """Probability of the predicted class (Eq. 6-7)."""
        return single_label_confidence(logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax."""
        return logits.float().softmax(dim=1)

    def supervision(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy with labels (B,) or soft labels (B, K)."""
        return F.cross_entropy(
            logits.float(), target, label_smoothing=self.label_smoothing
        )

"""Classification with a teacher, over mmpretrain."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmscope.registry import MODELS
from mmscope.utils.checkpoint import load_weights
from mmscope.utils.versions import require

from .token_reduction import collect_sequences

require('mmpretrain')

from mmpretrain.models import ImageClassifier  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402

PREFIX = 'teacher.'


@MODELS.register_module()
class DistilledClassifier(ImageClassifier):
    """ImageClassifier that also learns what a frozen teacher answers.

    As Vision Mamba on fewer tokens is trained (R-MeeTo, DyVM): the loss of
    the head, and the divergence from the teacher's answers to the same
    images. Checkpoints leave the teacher out, so that they are those of the
    plain ImageClassifier.

    Args:
        teacher: Config of a classifier of mmpretrain.
        teacher_checkpoint: File of its weights, all of them, which is read
            when training begins.
        distill_weight: Weight of KL(teacher || student), a mean over images.
        **kwargs: Arguments of ImageClassifier, which it checks.

    Raises:
        ValueError: ``distill_weight`` is negative, or the teacher has another
            number of classes.
    """

    def __init__(
        self,
        teacher: dict,
        teacher_checkpoint: str,
        distill_weight: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not distill_weight >= 0:
            raise ValueError(
                f'distill_weight must not be negative, got {distill_weight}'
            )
        self.distill_weight = distill_weight
        self.teacher_checkpoint = teacher_checkpoint
        self.teacher = MODELS.build(teacher)
        ours, theirs = self.head.num_classes, self.teacher.head.num_classes
        if ours != theirs:
            raise ValueError(
                f'teacher.head.num_classes={theirs} must equal '
                f'head.num_classes={ours}'
            )
        self.teacher.requires_grad_(False)
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_post_hook(_not_missing)

    def init_weights(self) -> None:
        """Draw initial weights, and read the teacher's.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it is not of the teacher.
        """
        super().init_weights()
        load_weights(self.teacher, self.teacher_checkpoint, 'the teacher')

    def train(self, mode: bool = True) -> 'DistilledClassifier':
        """Set the mode; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def loss(
        self, inputs: Tensor, data_samples: list[DataSample]
    ) -> dict[str, Tensor]:
        """Loss of the head, and the divergence from the teacher.

        Args:
            inputs: Images, (B, 3, H, W).
            data_samples: With ``gt_label``, or ``gt_score`` (K,).
        """
        with collect_sequences() as passes:
            features = self.extract_feat(inputs)
        losses = self.head.loss(features, data_samples)
        with torch.no_grad():
            theirs = self.teacher(inputs)
        divergence = F.kl_div(
            self.head(features).float().log_softmax(dim=1),
            theirs.float().log_softmax(dim=1),
            reduction='batchmean',
            log_target=True,
        )
        for record in passes:
            losses.update(self.backbone.token_reduction.loss(record))
        return dict(losses, loss_distill=self.distill_weight * divergence)


def _leave_out(
    module: nn.Module, state: dict, prefix: str, metadata: dict
) -> None:
    """Take the teacher out of a state dict."""
    for key in [k for k in state if k.startswith(prefix + PREFIX)]:
        del state[key]


def _not_missing(module: nn.Module, incompatible: Any) -> None:
    """Do not miss the teacher in a state dict."""
    incompatible.missing_keys[:] = [
        key
        for key in incompatible.missing_keys
        if not key.startswith(PREFIX) and f'.{PREFIX}' not in key
    ]


__all__ = ['DistilledClassifier']

"""Classification with a teacher, over mmpretrain."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmscope.functional import split_cls
from mmscope.registry import MODELS
from mmscope.utils.checkpoint import load_weights
from mmscope.utils.versions import require

from .token_reduction import collect_sequences
from .token_reduction.dynamic import DynamicRecord, DynamicTokens

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
        token_weight: Weight of the squared distance of tokens that are kept
            from the teacher's of the same cells, which DyVM has.
        **kwargs: Arguments of ImageClassifier, which it checks.

    Raises:
        ValueError: a weight is negative or has nothing to weigh, or the
            teacher has another number of classes.
    """

    def __init__(
        self,
        teacher: dict,
        teacher_checkpoint: str,
        distill_weight: float = 0.5,
        token_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        weights = dict(
            distill_weight=distill_weight, token_weight=token_weight
        )
        for name, value in weights.items():
            if not value >= 0:
                raise ValueError(f'{name} must not be negative, got {value}')
        reduction = getattr(self.backbone, 'token_reduction', None)
        if token_weight > 0 and not isinstance(reduction, DynamicTokens):
            raise ValueError(
                f'token_weight={token_weight} weighs tokens that '
                'DynamicTokens keeps, and the backbone has '
                f'token_reduction={type(reduction).__name__}; set it to 0'
            )
        self.distill_weight, self.token_weight = distill_weight, token_weight
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
        theirs, tokens = self._teach(inputs)
        divergence = F.kl_div(
            self.head(features).float().log_softmax(dim=1),
            theirs.float().log_softmax(dim=1),
            reduction='batchmean',
            log_target=True,
        )
        for record in passes:
            losses.update(self.backbone.token_reduction.loss(record))
            if self.token_weight > 0:
                distance = self._distance(record, tokens)
                losses['loss_tokens_distill'] = self.token_weight * distance
        return dict(losses, loss_distill=self.distill_weight * divergence)

    @torch.no_grad()
    def _teach(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """The teacher's answers, and its tokens where they are asked for.

        Args:
            inputs: Images, (B, 3, H, W).

        Returns:
            Logits (B, K), and tokens without CLS (B, N, C) after its final
            norm or None.
        """
        if self.token_weight == 0:
            return self.teacher(inputs), None
        net, seen = self.teacher.backbone, []
        hook = net.layers[-1].register_forward_hook(
            lambda *args: seen.append(args[-1])
        )
        try:
            logits = self.teacher(inputs)
        finally:
            hook.remove()
        x, update, _ = seen[0]
        return logits, split_cls(net.norm_f(x + update.to(x.dtype)))[0]

    def _distance(self, record: DynamicRecord, tokens: Tensor) -> Tensor:
        """Mean squared distance of kept tokens from the teacher's."""
        ours = self.backbone.norm_f(record.cells)
        squares = (ours - tokens).float().square().mean(dim=-1)
        kept = record.policy
        return (squares * kept).sum() / kept.sum().clamp(min=1)


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

"""What a segmentor, detector or classifier needs to supervise its exits."""

from collections.abc import Sequence

from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmscope.scope.checks import check_choice
from mmscope.scope.losses import CONSISTENCIES

from .mambascope import MambaScopeBackbone
from .scope_result import ScopeResult


class ExitSupervision(nn.Module):
    """Mixin of a model whose backbone is a :class:`MambaScopeBackbone`.

    It weighs the two terms of Eq. 21 and makes the validity mask. Call
    :meth:`set_up_exits` at the end of the constructor.
    """

    backbone: MambaScopeBackbone

    def set_up_exits(
        self,
        exit_weight: float,
        consistency_weight: float,
        consistency: str,
        coarse_decode_weight: float,
    ) -> None:
        """Check and keep the options of exit supervision.

        Args:
            exit_weight: Weight of the exit head's supervised loss.
            consistency_weight: Weight of the KL term.
            consistency: See :func:`mmscope.scope.consistency_loss`.
            coarse_decode_weight: Weight of the task loss on coarse maps.

        Raises:
            TypeError: the backbone is no MambaScopeBackbone.
            ValueError: it has no exit head, or a weight is negative.
        """
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

    def exit_losses(
        self, result: ScopeResult, target: Tensor
    ) -> dict[str, Tensor]:
        """Weighted losses of the exit head.

        Args:
            result: Of both passes, as in training.
            target: As the exit head's ``supervision`` takes it.
        """
        losses = self.backbone.exit_head.loss(
            result.coarse_logits, result.fine_logits, target, self.consistency
        )
        return dict(
            loss_exit=self.exit_weight * losses['loss_exit'],
            loss_consistency=self.consistency_weight
            * losses['loss_consistency'],
        )

    def valid_cells(self, content: Tensor) -> Tensor:
        """Coarse cells that show some of an image.

        Args:
            content: 1 where a pixel is no padding, (B, 1, H, W).

        Returns:
            (B, ceil(H / 2P), ceil(W / 2P)) bool.
        """
        stride = 2 * self.backbone.patch_size
        cells = nn.functional.max_pool2d(
            content, stride, stride, ceil_mode=True
        )
        return cells.squeeze(1) > 0

    def weigh_coarse(self, losses: dict) -> dict:
        """Weigh and rename the losses of the coarse maps.

        Args:
            losses: As mmseg and mmdet name them: values whose name has
                'loss' in it are tensors, or lists of tensors.
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

    @staticmethod
    def _content(
        inputs: Tensor, data_samples: list[BaseDataElement] | None
    ) -> Tensor:
        """Which pixels of a batch are no padding, (B, 1, H, W)."""
        canvas = tuple(inputs.shape[2:])
        sizes = [canvas] * len(inputs)
        if data_samples is not None:
            sizes = [
                tuple(sample.metainfo.get('img_shape', canvas)[:2])
                for sample in data_samples
            ]
        return content_mask(sizes, canvas, inputs)


def content_mask(
    sizes: Sequence[tuple[int, int]], canvas: tuple[int, int], like: Tensor
) -> Tensor:
    """Mark the pixels of a padded batch that belong to an image.

    Args:
        sizes: Height and width of each image before padding.
        canvas: Height and width of the batch.
        like: Tensor whose device and dtype the mask takes.

    Returns:
        1 inside and 0 in the padding, (B, 1, H, W).
    """
    mask = like.new_zeros(len(sizes), 1, *canvas)
    for image, (height, width) in zip(mask, sizes, strict=True):
        image[:, :height, :width] = 1
    return mask


class frozen_batch_norm:  # noqa: N801 - reads as a statement
    """Normalise with running statistics, and leave them alone, in a block.

    Coarse maps have other statistics than fine ones. Where both pass the
    same BatchNorm in training, only the fine ones may set what inference
    uses; and the coarse ones are normalised just as inference will do it.

    Args:
        *modules: Modules whose BatchNorm layers are meant; None is skipped.
    """

    def __init__(self, *modules: nn.Module | None) -> None:
        self.layers = [
            layer
            for module in modules
            if module is not None
            for layer in module.modules()
            if isinstance(layer, _BatchNorm) and layer.training
        ]

    def __enter__(self) -> None:
        for layer in self.layers:
            layer.eval()

    def __exit__(self, *_: object) -> None:
        for layer in self.layers:
            layer.train()

"""What a segmentor, detector or classifier needs to supervise its exits."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmscope.functional.checks import check_choice
from mmscope.functional.losses import CONSISTENCIES
from mmscope.registry import MODELS

from .exit_policies import Evidence
from .mambascope import MambaScopeBackbone
from .stages import CoarseStage, ScopeResult, Stages

# mm's signatures have no room for what the backbone decided
_COLLECTORS: ContextVar[tuple[list[Stages], ...]] = ContextVar(
    'collectors', default=()
)


@contextmanager
def collect_stages() -> Iterator[list[Stages]]:
    """Collect the stages of every forward pass inside the block."""
    passes: list[Stages] = []
    token = _COLLECTORS.set((*_COLLECTORS.get(), passes))
    try:
        yield passes
    finally:
        _COLLECTORS.reset(token)


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
        exit_policy: dict | None = None,
    ) -> None:
        """Check and keep the options of exit supervision.

        Args:
            exit_weight: Weight of the exit head's supervised loss.
            consistency_weight: Weight of the KL term.
            consistency: See :func:`mmscope.functional.consistency_loss`.
            coarse_decode_weight: Weight of the task loss on coarse maps.
            exit_policy: Config of an :class:`ExitPolicy` that decides in
                inference instead of the exit head.

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
        self.exit_policy = MODELS.build(exit_policy) if exit_policy else None

    def stages(
        self,
        inputs: Tensor,
        content: Tensor,
        paths: Sequence[str] = (),
        decode: Callable[[tuple[Tensor, ...]], Tensor] | None = None,
    ) -> Stages:
        """Run the backbone, under the exit policy if there is one.

        Args:
            inputs: Images, (B, 3, H, W).
            content: See :class:`Evidence`.
            paths: See :class:`Evidence`; used in inference.
            decode: Turns coarse maps into logits of every pixel, for
                policies.
        """
        policy = None if self.training else self.exit_policy

        def judge(coarse: CoarseStage, logits: Tensor) -> Tensor:
            see = None if decode is None else partial(decode, coarse.maps)
            return policy(Evidence(coarse, logits, content, paths, see))

        stages = self.backbone.stages(
            inputs,
            self.valid_cells(content),
            judge=None if policy is None else judge,
        )
        for passes in _COLLECTORS.get():
            passes.append(stages)
        return stages

    def tell_exits(
        self,
        samples: list[BaseDataElement],
        passes: Sequence[Stages],
        as_share: bool = False,
    ) -> list[BaseDataElement]:
        """Write into predictions how they came about.

        Args:
            samples: Predictions, B; get ``exited``, ``exit_confidence`` and
                ``exit_scores`` (K,).
            passes: The forward pass over all of them, or one for each window,
                which are averaged.
            as_share: Whether ``exited`` is the share of windows.
        """
        decisions = [stages.decision for stages in passes]
        exited = torch.stack([d.exited for d in decisions]).float().mean(0)
        confidence = torch.stack([d.confidence for d in decisions]).mean(0)
        prob = self.backbone.exit_head.probabilities
        scores = torch.stack([prob(d.logits) for d in decisions]).mean(0)
        # both in one transfer from the device
        shares, values = torch.stack([exited, confidence.float()]).tolist()
        for sample, share, value, score in zip(
            samples, shares, values, scores, strict=True
        ):
            sample.exited = share if as_share else bool(share)
            sample.exit_confidence = value
            sample.exit_scores = score
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
        own = self.backbone.eta
        self.backbone.eta = 0.0
        try:
            coarse = predict(dict(data, data_samples=copies))
        finally:
            self.backbone.eta = own
        samples = predict(data)
        for sample, answer in zip(samples, coarse, strict=True):
            sample.coarse_answer = answer
        return samples

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

"""Semantic segmentation with early exit, over mmseg."""

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from mmscope.functional import to_fine_grid
from mmscope.functional.targets import classes_in_mask
from mmscope.registry import MODELS
from mmscope.utils.versions import require
from mmscope.utils.windows import slides, windows

from .early_exit import (
    EarlyExitMixin,
    evaluated,
    frozen_batch_norm,
    refuse_pretrained,
)
from .exit_context import ExitContext, exit_context
from .exit_control import collect_passes
from .scope_result import ScopeResult
from .stages import Maps

require('mmseg')

from mmseg.models import EncoderDecoder  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402


@MODELS.register_module()
class MambaScopeSegmentor(EarlyExitMixin, EncoderDecoder):
    """EncoderDecoder that trains and uses the exits of its backbone.

    Training adds to mmseg's losses the exit head's supervision by the
    classes present in the mask and the consistency of both stages (Eq. 21).
    Predictions carry ``exited``, ``exit_confidence`` and ``exit_scores``, the
    exit head's probabilities; with slide inference these are means over the
    windows. With ``test_cfg.keep_coarse`` they carry ``coarse_answer``, too.

    Args:
        backbone: Config of a :class:`MambaScopeBackbone` with an exit head.
        decode_head: Config of a decode head of mmseg.
        neck: Config of a neck, or None.
        auxiliary_head: Config or configs of auxiliary heads, or None.
        exit_weight: Weight of the exit head's binary cross-entropy.
        consistency_weight: Weight of the KL term.
        consistency: 'teacher' or 'eq21', see
            :func:`mmscope.functional.consistency_loss`.
        coarse_decode_weight: Beyond the paper: weight of the decode head's
            loss on the coarse maps, decoded at the backbone's
            ``exit_resolution``, so that exited images get good masks.
            BatchNorm layers use and keep their running statistics there.
        train_cfg: mmseg's options for training.
        test_cfg: mmseg's options for testing, and ``keep_coarse``.
        data_preprocessor: Config of a :class:`ScopeSegDataPreprocessor`.
        pretrained: None, as mmseg's tools and base configs set it.
        init_cfg: mmengine's.

    Raises:
        ValueError: ``pretrained`` names weights, or see
            :class:`EarlyExitMixin`.
    """

    task_head = 'decode_head'
    predicts_pixels = True

    def __init__(
        self,
        backbone: dict,
        decode_head: dict,
        neck: dict | None = None,
        auxiliary_head: dict | list[dict] | None = None,
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
            decode_head=decode_head,
            neck=neck,
            auxiliary_head=auxiliary_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
            exit_weight=exit_weight,
            consistency_weight=consistency_weight,
            consistency=consistency,
            coarse_decode_weight=coarse_decode_weight,
        )
        # mmseg's necks and heads are convolutions, which are faster so
        self.to(memory_format=torch.channels_last)

    def loss(
        self, inputs: Tensor, data_samples: list[SegDataSample]
    ) -> dict[str, Tensor]:
        """Losses of heads, exits and, if weighted, the coarse maps.

        Args:
            inputs: Images, (B, 3, H, W).
            data_samples: With ``gt_sem_seg``.
        """
        target = self.exit_target(data_samples)
        with self.showing(inputs, data_samples), self.deciding(inputs):
            result = self.backbone.scope(inputs)
        maps = self._neck(result.features)
        losses = self._decode_head_forward_train(maps, data_samples)
        if self.with_auxiliary_head:
            losses.update(
                self._auxiliary_head_forward_train(maps, data_samples)
            )
        losses.update(self.exit_losses(result, target))
        if self.coarse_decode_weight > 0:
            losses.update(self._coarse_decode_loss(result, data_samples))
        return losses

    def predict(
        self,
        inputs: Tensor | list[Tensor],
        data_samples: list[SegDataSample] | None = None,
    ) -> list[SegDataSample]:
        """Segment images, one forward pass for each padded size.

        Args:
            inputs: (B, 3, H, W), or images (3, H, W) of several sizes.
            data_samples: Samples of the images, in the same order.

        Returns:
            Samples in order, with ``exited`` and ``exit_confidence`` beside
            mmseg's fields.
        """
        if isinstance(inputs, Tensor):
            return self._predict_batch(inputs, data_samples)
        by_size: dict[torch.Size, list[int]] = {}
        for index, image in enumerate(inputs):
            by_size.setdefault(image.shape, []).append(index)
        predictions: list = [None] * len(inputs)
        for indices in by_size.values():
            batch = self._predict_batch(
                torch.stack([inputs[i] for i in indices]),
                [data_samples[i] for i in indices],
            )
            for index, sample in zip(indices, batch, strict=True):
                predictions[index] = sample
        return predictions

    def deciding(
        self, inputs: Tensor, batch_img_metas: list[dict] | None = None
    ) -> AbstractContextManager[ExitContext]:
        """Let policies and scores decode the coarse maps; see the mixin."""
        metas = batch_img_metas or [dict(img_shape=inputs.shape[2:])]
        truth = exit_context(self.backbone).truth

        def decode(maps: Maps) -> Tensor:
            if not self.training:
                return self._decode(self._coarse_maps(maps), metas)
            # it decides what is refined, and teaches nothing
            neck = self.neck if self.with_neck else None
            with torch.no_grad(), evaluated(neck, self.decode_head):
                return self._decode(self._coarse_maps(maps), metas)

        def judge(logits: Tensor) -> tuple[Tensor, Tensor]:
            if logits.shape[2:] != truth.shape[1:]:
                logits = F.interpolate(logits, truth.shape[1:])
            counts = truth >= 0
            wrong = (self.labels_of(logits) != truth) & counts
            return wrong, counts.unsqueeze(1)

        return self.in_context(
            decoder=decode, judge=None if truth is None else judge
        )

    def labels_of(self, logits: Tensor) -> Tensor:
        """The class that logits (B, K, H, W) predict, (B, H, W)."""
        if logits.shape[1] > 1:
            return logits.argmax(dim=1)
        return (logits.sigmoid() > self.decode_head.threshold)[:, 0].long()

    def labels_shown(
        self, inputs: Tensor, samples: list[SegDataSample] | None
    ) -> Tensor | None:
        """Labels on the canvas that the model sees; see the mixin."""
        settings = self.backbone.exit_settings
        if not settings.cell_score.needs_truth or not all(
            'gt_sem_seg' in one for one in samples or [{}]
        ):
            return None
        canvas = tuple(inputs.shape[2:])
        labels = inputs.new_full((len(inputs), *canvas), -1, dtype=torch.long)
        for row, sample in zip(labels, samples, strict=True):
            mask = sample.gt_sem_seg.data.to(labels.device)
            if tuple(mask.shape[1:]) != canvas:
                # the test pipeline leaves masks at the image file's size
                size = sample.metainfo.get('img_shape', canvas)[:2]
                mask = F.interpolate(mask[None].float(), size)[0].long()
            shown = mask[0].long()
            shown = shown.masked_fill(
                shown == self.decode_head.ignore_index, -1
            )
            row[: shown.shape[0], : shown.shape[1]] = shown
        return labels

    def extract_feat(self, inputs: Tensor) -> Maps:
        """Maps of the neck, whichever pass an image ended in.

        Args:
            inputs: Images, (B, 3, H, W).
        """
        with self.deciding(inputs):
            return super().extract_feat(inputs)

    def encode_decode(
        self, inputs: Tensor, batch_img_metas: list[dict]
    ) -> Tensor:
        """Segment one canvas or window.

        Args:
            inputs: Images, (B, 3, H, W).
            batch_img_metas: Metas of the images, as mmseg's.

        Returns:
            Logits, (B, K, H, W).
        """
        with self.deciding(inputs, batch_img_metas):
            result = self.backbone.scope(inputs)
        coarse = result.decision.evidence.decoded
        if coarse is not None:
            return self._refine_answers(coarse, result, batch_img_metas)
        if not self._decodes_coarse(result.coarse.maps):
            return self._decode(result.features, batch_img_metas)
        logits = None
        for rows, maps in result.groups():
            part = self._decode(maps, batch_img_metas)
            if rows is None:
                return part
            if logits is None:
                logits = part.new_empty(len(inputs), *part.shape[1:])
            logits.index_copy_(0, rows, part)
        return logits

    def slide_inference(
        self, inputs: Tensor, batch_img_metas: list[dict]
    ) -> Tensor:
        """Segment overlapping windows, each with exits of its own.

        Args:
            inputs: Images, (B, 3, H, W).
            batch_img_metas: Metas of the images, as mmseg's.

        Returns:
            Mean logits of the windows over each pixel, (B, K, H, W).
        """
        context = exit_context(self.backbone)
        canvas = inputs.shape[2:]
        logits = inputs.new_zeros(len(inputs), self.out_channels, *canvas)
        count = inputs.new_zeros(1, 1, *canvas)
        for rows, columns in windows(
            canvas, self.test_cfg.crop_size, self.test_cfg.stride
        ):
            window = (..., rows, columns)
            crop = inputs[window]
            shown, truth = (
                None if whole is None else whole[window]
                for whole in (context.content, context.truth)
            )
            # decode heads take a torch.Size for that of a window
            metas = [
                dict(m, img_shape=crop.shape[2:]) for m in batch_img_metas
            ]
            with self.in_context(content=shown, truth=truth):
                logits[window] += self.encode_decode(crop, metas)
            count[window] += 1
        return logits / count

    def _refine_answers(
        self, coarse: Tensor, result: ScopeResult, batch_img_metas: list[dict]
    ) -> Tensor:
        """Replace the coarse logits (B, K, H, W) of the refined images."""
        if result.fine is None:
            return coarse
        fine = self._decode(result.fine.maps, batch_img_metas)
        return coarse.index_copy(0, result.hard, fine.to(coarse.dtype))

    def _predict_batch(
        self, inputs: Tensor, data_samples: list[SegDataSample] | None
    ) -> list[SegDataSample]:
        with (
            self.showing(inputs, data_samples),
            collect_passes(self) as passes,
        ):
            samples = super().predict(inputs, data_samples)
        return self.write_exit_info(samples, passes, as_share=slides(self))

    def _forward(
        self,
        inputs: Tensor,
        data_samples: list[SegDataSample] | None = None,
    ) -> Tensor:
        """Logits of the decode head, as ``mode='tensor'`` asks for them."""
        with self.showing(inputs, data_samples):
            return super()._forward(inputs, data_samples)

    def decode_stage(
        self, maps: Maps, size: tuple[int, int], coarse: bool
    ) -> Tensor:
        """Decode the maps of one pass, as an image that ends in it.

        Args:
            maps: Maps of the pass, (B, C, h, w) for each level.
            size: Height and width of the canvas, H and W.
            coarse: Whether it is the coarse pass.

        Returns:
            Logits, (B, K, H, W).
        """
        maps = self._coarse_maps(maps) if coarse else maps
        # decode heads take a torch.Size for that of a window
        return self._decode(maps, [dict(img_shape=torch.Size(size))])

    def _decode(self, maps: Maps, batch_img_metas: list[dict]) -> Tensor:
        return self.decode_head.predict(
            self._neck(maps), batch_img_metas, self.test_cfg
        )

    def _neck(self, maps: Maps) -> Maps:
        return self.neck(maps) if self.with_neck else maps

    def _coarse_maps(self, maps: Maps) -> Maps:
        """Coarse maps at the resolution that exited images decode at."""
        return maps if self._decodes_coarse(maps) else to_fine_grid(maps)

    def _decodes_coarse(self, maps: Maps) -> bool:
        """Whether exited images are decoded on their coarse maps.

        A map of a single row or column is too small for necks that halve it.
        """
        resolution = self.backbone.exit_settings.resolution
        return resolution == 'coarse' and min(maps[0].shape[2:]) > 1

    def _coarse_decode_loss(
        self, result: ScopeResult, data_samples: list[SegDataSample]
    ) -> dict[str, Tensor]:
        """Task loss of exited images, decoded as inference decodes them."""
        maps = self._coarse_maps(result.coarse_features)
        neck = self.neck if self.with_neck else None
        with frozen_batch_norm(neck, self.decode_head):
            losses = self._decode_head_forward_train(
                self._neck(maps), data_samples
            )
        return self.weigh_coarse(losses)

    def classes_shown(self, sample: SegDataSample) -> Tensor:
        """Classes present in a sample's mask, (1, K)."""
        return classes_in_mask(
            sample.gt_sem_seg.data,
            self.num_classes,
            self.decode_head.ignore_index,
        )


__all__ = ['MambaScopeSegmentor']

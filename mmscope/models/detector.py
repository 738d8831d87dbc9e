"""Object detection and instance segmentation with early exit, over mmdet."""

import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmscope.functional import to_fine_grid
from mmscope.functional.targets import classes_in_instances
from mmscope.registry import MODELS
from mmscope.utils.versions import require

from .early_exit import EarlyExitMixin, frozen_batch_norm
from .exit_context import exit_context
from .scope_result import ScopeResult
from .stages import Maps

require('mmdet')

from mmdet.models import CascadeRCNN  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.structures.bbox import scale_boxes  # noqa: E402
from mmdet.structures.mask import BitmapMasks, PolygonMasks  # noqa: E402


class DetectorExits(EarlyExitMixin):
    """Mixin that trains and uses exits in a detector of mmdet.

    Put it before any single- or two-stage detector whose backbone is a
    :class:`MambaScopeBackbone`; nothing else has to be written::

        @MODELS.register_module()
        class ScopeRetinaNet(DetectorExits, RetinaNet):
            pass

    Training adds to mmdet's losses the exit head's supervision by the
    classes of the instances and the consistency of both stages (Eq. 21); an
    image without instances has none of the classes. Predictions carry
    ``exited``, ``exit_confidence`` and ``exit_scores``, the exit head's
    probabilities; with ``test_cfg.keep_coarse`` also ``coarse_answer``.

    With the backbone's ``exit_resolution='coarse'`` an exited image is
    detected as the half-size image that the coarse pass saw: strides,
    anchors and neck stay, and mmdet rescales its boxes and masks.

    Its own arguments are those of :class:`EarlyExitMixin`; with
    ``coarse_decode_weight`` the detector's losses are taken on the coarse
    maps, too, at the backbone's ``exit_resolution``, so that exited images
    get good boxes. BatchNorm layers use and keep their running statistics
    there.
    """

    task_head = 'bbox_head'

    @property
    def num_classes(self) -> int:
        """Classes of the last box head.

        Raises:
            TypeError: there is none.
        """
        parent = self.roi_head if hasattr(self, 'roi_head') else self
        head = getattr(parent, 'bbox_head', None)
        if head is None:
            raise TypeError(
                'exits need the classes of a box head, and '
                f'{type(self).__name__} has no bbox_head or roi_head'
            )
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        return head.num_classes

    def extract_feat(self, batch_inputs: Tensor) -> Maps:
        """Maps of the neck, from the pass that is under way if one is.

        Args:
            batch_inputs: Images, (B, 3, H, W).
        """
        maps = exit_context(self.backbone).given
        if maps is None:
            return super().extract_feat(batch_inputs)
        return self.neck(maps) if self.with_neck else maps

    def loss(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]
    ) -> dict:
        """Losses of heads, exits and, if weighted, the coarse maps.

        Args:
            batch_inputs: Images, (B, 3, H, W).
            batch_data_samples: With ``gt_instances``.
        """
        target = self.exit_target(batch_data_samples)
        with self.showing(batch_inputs, batch_data_samples):
            result = self.backbone.scope(batch_inputs)
        with self.in_context(given=result.features):
            losses = super().loss(batch_inputs, batch_data_samples)
        losses.update(self.exit_losses(result, target))
        if self.coarse_decode_weight > 0:
            losses.update(
                self._coarse_loss(batch_inputs, result, batch_data_samples)
            )
        return losses

    def predict(
        self,
        batch_inputs: Tensor,
        batch_data_samples: list[DetDataSample],
        rescale: bool = True,
    ) -> list[DetDataSample]:
        """Detect objects.

        Args:
            batch_inputs: Images, (B, 3, H, W).
            batch_data_samples: Samples of the images.
            rescale: Whether boxes and masks fit the original images, or
                ``batch_inputs``.

        Returns:
            The samples, with ``exited`` and ``exit_confidence`` beside
            mmdet's ``pred_instances``.
        """
        with self.showing(batch_inputs, batch_data_samples):
            result = self.backbone.scope(batch_inputs)
        if self.backbone.exit_settings.resolution == 'fine':
            maps = result.features
            self._detect(batch_inputs, maps, batch_data_samples, rescale)
            return self.write_exit_info(batch_data_samples, [result])
        hard = result.hard.tolist()
        easy = sorted(set(range(len(batch_inputs))) - set(hard))
        if hard:
            self._detect(
                batch_inputs[hard],
                result.fine.maps,
                [batch_data_samples[i] for i in hard],
                rescale,
            )
        if easy:
            self._detect_half_size(
                batch_inputs[easy],
                tuple(m[easy] for m in result.coarse.maps),
                [batch_data_samples[i] for i in easy],
                rescale,
            )
        return self.write_exit_info(batch_data_samples, [result])

    def _forward(
        self,
        batch_inputs: Tensor,
        batch_data_samples: list[DetDataSample] | None = None,
    ) -> tuple:
        """What the heads give, as ``mode='tensor'`` asks for it."""
        with self.showing(batch_inputs, batch_data_samples):
            return super()._forward(batch_inputs, batch_data_samples)

    def _detect(
        self,
        inputs: Tensor,
        maps: Maps,
        samples: list[DetDataSample],
        rescale: bool,
    ) -> None:
        """Let mmdet write ``pred_instances`` into the samples."""
        with self.in_context(given=maps):
            super().predict(inputs, samples, rescale=rescale)

    def _detect_half_size(
        self,
        inputs: Tensor,
        maps: Maps,
        samples: list[DetDataSample],
        rescale: bool,
    ) -> None:
        """Detect in half-size images; results fit the whole ones."""
        halves = [half_size_sample(sample) for sample in samples]
        # the maps are given: of the images only the size is looked at
        self._detect(inputs[..., ::2, ::2], maps, halves, rescale)
        for sample, half in zip(samples, halves, strict=True):
            if not rescale:
                _double(half.pred_instances, sample.img_shape)
            sample.pred_instances = half.pred_instances

    def _coarse_loss(
        self, inputs: Tensor, result: ScopeResult, samples: list[DetDataSample]
    ) -> dict:
        """Losses of exited images, detected as inference detects them."""
        maps = result.coarse_features
        if self.backbone.exit_settings.resolution == 'fine':
            maps = to_fine_grid(maps)
        else:
            inputs = inputs[..., ::2, ::2]
            samples = [half_size_sample(sample) for sample in samples]
        with frozen_batch_norm(self), self.in_context(given=maps):
            losses = super().loss(inputs, samples)
        return self.weigh_coarse(losses)

    def classes_shown(self, sample: DetDataSample) -> Tensor:
        """Classes among the instances of a sample, (1, K)."""
        labels = sample.gt_instances.labels
        return classes_in_instances([labels], self.num_classes)


@MODELS.register_module()
class MambaScopeCascadeRCNN(DetectorExits, CascadeRCNN):
    """Cascade R-CNN, with or without masks, that uses exits.

    Its arguments are those of mmdet's CascadeRCNN and of
    :class:`DetectorExits`.
    """


def half_size_sample(sample: DetDataSample) -> DetDataSample:
    """Describe the half-size image of a sample.

    Canvases are rounded up, and the content is rounded down: a box in the
    added half pixel would lie outside of the original image, where mmdet
    cannot paste its mask. ``scale_factor`` is halved, so that mmdet rescales
    results to the original image. Instances, ignored ones and proposals
    follow; the given sample stays as it is.

    Args:
        sample: With ``img_shape``, and ``scale_factor`` unless it is 1.
    """
    half = sample.new()
    meta = sample.metainfo
    sizes = {
        key: tuple(-(-side // 2) for side in meta[key][:2])
        for key in ('pad_shape', 'batch_input_shape')
        if key in meta
    }
    sizes['img_shape'] = tuple(
        max(side // 2, 1) for side in meta['img_shape'][:2]
    )
    factor = meta.get('scale_factor', (1.0, 1.0))
    half.set_metainfo(dict(sizes, scale_factor=tuple(f / 2 for f in factor)))
    for name in ('gt_instances', 'ignored_instances', 'proposals'):
        if name in sample:
            setattr(half, name, _half_instances(sample.get(name)))
    return half


def _half_instances(instances: InstanceData) -> InstanceData:
    half = instances.new()
    if 'bboxes' in instances:
        half.bboxes = scale_boxes(instances.bboxes.clone(), (0.5, 0.5))
    if 'masks' in instances:
        half.masks = half_size_masks(instances.masks)
    return half


def half_size_masks(
    masks: BitmapMasks | PolygonMasks,
) -> BitmapMasks | PolygonMasks:
    """Halve masks; a pixel is set where half of its 2 x 2 pixels are.

    Args:
        masks: N masks of H x W; an odd side is padded first.
    """
    height, width = -(-masks.height // 2), -(-masks.width // 2)
    masks = masks.pad((2 * height, 2 * width))
    if isinstance(masks, PolygonMasks):
        return masks.resize((height, width))
    array = masks.masks
    count = (
        array[:, ::2, ::2]
        + array[:, 1::2, ::2]
        + array[:, ::2, 1::2]
        + array[:, 1::2, 1::2]
    )
    return BitmapMasks((count >= 2).astype(array.dtype), height, width)


def _double(results: InstanceData, shape: tuple[int, int]) -> None:
    """Fit results of a half-size image to the whole one, in place."""
    results.bboxes = 2 * results.bboxes
    if 'masks' in results and len(results):
        masks = results.masks
        whole = F.interpolate(masks[None].to(torch.uint8), size=shape)
        results.masks = whole[0].to(masks.dtype)


__all__ = [
    'DetectorExits',
    'MambaScopeCascadeRCNN',
    'half_size_masks',
    'half_size_sample',
]

"""Cascade heads as detectron2 trains them, over mmdet."""

from torch import Tensor, nn

from mmscope.registry import MODELS
from mmscope.utils.versions import require

require('mmdet')

from mmdet.models.roi_heads import CascadeRoIHead  # noqa: E402
from mmdet.models.task_modules.samplers import SamplingResult  # noqa: E402
from mmdet.registry import MODELS as MMDET_MODELS  # noqa: E402
from mmdet.structures.bbox import bbox2roi  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

Maps = tuple[Tensor, ...]


@MODELS.register_module()
class SharedMaskCascadeRoIHead(CascadeRoIHead):
    """mmdet's cascade of box heads with a single mask head.

    The mask head learns from the proposals of the first stage, and is run
    once, on the boxes of the last. Gradients that box heads send into the
    maps are divided by the number of stages, so that stages of weight 1
    together weigh as much as one.

    Its arguments are CascadeRoIHead's; ``mask_head`` and
    ``mask_roi_extractor`` are one config each. In checkpoints the mask head
    is ``mask_head.0``.

    Raises:
        TypeError: there are configs of several mask heads.
    """

    def init_mask_head(
        self, mask_roi_extractor: dict, mask_head: dict
    ) -> None:
        """Build the one mask head, and what cuts out its regions."""
        for name, config in dict(
            mask_head=mask_head, mask_roi_extractor=mask_roi_extractor
        ).items():
            if not isinstance(config, dict):
                raise TypeError(
                    f'SharedMaskCascadeRoIHead takes one config as {name}, '
                    f"got {config!r}; mmdet's CascadeRoIHead has one a stage"
                )
        self.share_roi_extractor = False
        self.mask_head = nn.ModuleList([MMDET_MODELS.build(mask_head)])
        self.mask_roi_extractor = nn.ModuleList(
            [MMDET_MODELS.build(mask_roi_extractor)]
        )

    def mask_loss(
        self,
        stage: int,
        x: Maps,
        sampling_results: list[SamplingResult],
        batch_gt_instances: list[InstanceData],
    ) -> dict:
        """Losses of the masks in the first stage; later ones have none.

        Args:
            stage: Index of the stage.
            x: Maps of the neck.
            sampling_results: Proposals that were drawn for each image.
            batch_gt_instances: Instances of each image.
        """
        if stage > 0:
            return dict(loss_mask={})
        return super().mask_loss(
            stage, x, sampling_results, batch_gt_instances
        )

    def predict_mask(
        self,
        x: Maps,
        batch_img_metas: list[dict],
        results_list: list[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Add ``masks`` to what was found.

        Args:
            x: Maps of the neck.
            batch_img_metas: Metas of the images.
            results_list: What was found in each image, with ``bboxes``.
            rescale: Whether masks fit the original images.
        """
        rois = bbox2roi([found.bboxes for found in results_list])
        if not len(rois):
            return super().predict_mask(
                x, batch_img_metas, results_list, rescale
            )
        masks = self._mask_forward(0, x, rois)['mask_preds']
        return self.mask_head[0].predict_by_feat(
            masks.split([len(found) for found in results_list]),
            results_list,
            batch_img_metas,
            self.test_cfg,
            rescale=rescale,
        )

    def _mask_forward(self, stage: int, x: Maps, rois: Tensor) -> dict:
        return super()._mask_forward(0, x, rois)

    def _bbox_forward(self, stage: int, x: Maps, rois: Tensor) -> dict:
        maps = tuple(_divide_gradient(one, self.num_stages) for one in x)
        return super()._bbox_forward(stage, maps, rois)


def _divide_gradient(x: Tensor, divisor: int) -> Tensor:
    """The same values, whose gradients are divided on their way back."""
    if not x.requires_grad:
        return x
    x = x.view_as(x)
    x.register_hook(lambda gradient: gradient / divisor)
    return x


__all__ = ['SharedMaskCascadeRoIHead']

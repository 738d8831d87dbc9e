"""Normalisation and padding of images for segmentation, over mmseg."""

from typing import Any

import torch

from mmscope.registry import MODELS
from mmscope.utils.versions import require

require('mmseg')

from mmseg.models import SegDataPreProcessor  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

# side of a coarse cell of patches of 16 pixels
CELL = 32


@MODELS.register_module()
class ScopeSegDataPreprocessor(SegDataPreProcessor):
    """mmseg's preprocessor, for test batches of images of any sizes.

    It takes mmseg's arguments: change the ``type`` in a config of mmseg's.

    In training it is mmseg's own. At test time each image is padded by
    itself, right and bottom, so that its result does not depend on its batch
    mates; images of different padded sizes come as a list.

    Args:
        size: Size that training images are padded to.
        size_divisor: Multiple that sides of training images are padded to;
            32 where there is no ``size`` either.
        test_cfg: Padding in testing, ``size`` or ``size_divisor``; None
            pads sides to multiples of 32.
        **options: SegDataPreProcessor's other arguments, which it checks.
    """

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        size_divisor: int | None = None,
        test_cfg: dict | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            size=size,
            size_divisor=size_divisor or (None if size else CELL),
            test_cfg=test_cfg or dict(size_divisor=CELL),
            **options,
        )

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise and pad a batch.

        Args:
            data: 'inputs', images (3, H, W) each, and 'data_samples'.
            training: Whether all images are padded to one size.

        Returns:
            'inputs', (B, 3, H, W) or a list of (3, H, W) where their sizes
            differ, and 'data_samples'.
        """
        if training:
            return super().forward(data, training=True)
        images = data['inputs']
        samples = data.get('data_samples')
        if samples is None:
            # decode heads take a torch.Size for that of a window
            sizes = [tuple(image.shape[-2:]) for image in images]
            samples = [
                SegDataSample(metainfo=dict(ori_shape=size, img_shape=size))
                for size in sizes
            ]
        batches = [
            super(ScopeSegDataPreprocessor, self).forward(
                dict(inputs=[image], data_samples=[sample])
            )
            for image, sample in zip(images, samples, strict=True)
        ]
        inputs = [batch['inputs'][0] for batch in batches]
        if len({image.shape for image in inputs}) == 1:
            inputs = torch.stack(inputs)
        return dict(
            inputs=inputs,
            data_samples=[batch['data_samples'][0] for batch in batches],
        )


__all__ = ['ScopeSegDataPreprocessor']

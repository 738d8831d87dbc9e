"""Segmentation with a backbone that learns to reduce tokens, over mmseg."""

from torch import Tensor

from mmscope.registry import MODELS
from mmscope.utils.versions import require

from .token_reduction import collect_sequences

require('mmseg')

from mmseg.models import EncoderDecoder  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402


@MODELS.register_module()
class ReducedSegmentor(EncoderDecoder):
    """EncoderDecoder that adds the losses of its backbone's reduction.

    Only a reduction with parameters, :class:`DynamicTokens`, has any; others
    train in mmseg's own EncoderDecoder.
    """

    def loss(
        self, inputs: Tensor, data_samples: list[SegDataSample]
    ) -> dict[str, Tensor]:
        """mmseg's losses, and those of the token reduction.

        Args:
            inputs: Images, (B, 3, H, W).
            data_samples: Samples with ground truth.
        """
        with collect_sequences() as passes:
            losses = super().loss(inputs, data_samples)
        for record in passes:
            losses.update(self.backbone.token_reduction.loss(record))
        return losses


__all__ = ['ReducedSegmentor']

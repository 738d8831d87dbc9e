"""A feature pyramid from a single map."""

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmscope.registry import MODELS


@MODELS.register_module()
class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map, (B, C, H, W).

    In any ``norm_cfg`` it is ``dict(type='mmscope.LayerNorm2d')``.

    Args:
        num_channels: Channels C.
        eps: Added to the variance.
    """

    # the name that mmcv's ConvModule gives it
    _abbr_ = 'ln'

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__(num_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise: (B, C, H, W) to (B, C, H, W), contiguous.

        mmcv's RoIAlign on a CPU takes contiguous maps for granted.
        """
        normed = super().forward(x.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2).contiguous()


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """ViTDet's pyramid: every level from one map of a plain backbone.

    Of a stride-16 map it makes the strides 4, 8, 16 and 32, by transposed
    convolutions and pooling, and by pooling once more 64.

    Args:
        in_channels: Channels C of the map.
        out_channels: Channels of every level.
        num_outs: Number of levels; those beyond the fourth are pooled from
            the one before.
        in_index: Which of the backbone's maps to take. Let the backbone
            return no others, lest the norms of these stay untrained.
        init_cfg: mmengine's.

    Raises:
        ValueError: ``in_channels`` is no positive multiple of 4, or
            ``num_outs`` is below 4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        num_outs: int = 5,
        in_index: int = -1,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if in_channels < 4 or in_channels % 4:
            raise ValueError(
                'in_channels must be a positive multiple of 4, '
                f'got {in_channels}'
            )
        if num_outs < 4:
            raise ValueError(
                'num_outs must be at least 4, for the strides 4 to 32, '
                f'got {num_outs}'
            )
        self.num_outs = num_outs
        self.in_index = in_index
        half, quarter = in_channels // 2, in_channels // 4
        scale_4 = nn.Sequential(
            nn.ConvTranspose2d(in_channels, half, 2, 2),
            LayerNorm2d(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2),
        )
        scale_2 = nn.ConvTranspose2d(in_channels, half, 2, 2)
        # a half cell at the border is kept: coarse maps may have odd sides
        scale_half = nn.MaxPool2d(2, 2, ceil_mode=True)
        scales = (scale_4, scale_2, nn.Identity(), scale_half)
        widths = (quarter, half, in_channels, in_channels)
        self.levels = nn.ModuleList(
            nn.Sequential(
                scale,
                nn.Conv2d(width, out_channels, 1, bias=False),
                LayerNorm2d(out_channels),
                nn.Conv2d(
                    out_channels, out_channels, 3, padding=1, bias=False
                ),
                LayerNorm2d(out_channels),
            )
            for scale, width in zip(scales, widths, strict=True)
        )

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            inputs: The backbone's maps, (B, C, H / 16, W / 16) each.

        Returns:
            ``num_outs`` maps of strides 4, 8, 16, ...
        """
        x = inputs[self.in_index]
        outs = [level(x) for level in self.levels]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], 1, 2))
        return tuple(outs)

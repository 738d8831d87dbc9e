"""Values of pixels, summed up over the coarse cells."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cell_means(values: Tensor, content: Tensor, side: int) -> Tensor:
    """Average pixels over each coarse cell; padding does not count.

    Args:
        values: Values of the pixels, (B, H, W), or of a coarser or finer
            grid over the same image, which is resized.
        content: Weight of each pixel, 0 in the padding, (B, 1, H, W).
        side: Side of a cell in pixels.

    Returns:
        Means in raster order in float32, (B, N_c), with N_c = ceil(H / side)
        * ceil(W / side); 0 in cells without content.
    """
    values = values.float().unsqueeze(1)
    content = content.float()
    if values.shape[2:] != content.shape[2:]:
        values = F.interpolate(values, content.shape[2:], mode='bilinear')
    weighted = _pool(torch.cat([values * content, content], dim=1), side)
    total, weight = weighted.unbind(dim=1)
    return (total / weight.clamp(min=1e-12)).flatten(1)


def cell_variance(images: Tensor, content: Tensor, side: int) -> Tensor:
    """Variance of the grey value within each coarse cell.

    Args:
        images: Images as the model gets them, (B, 3, H, W).
        content: Weight of each pixel, 0 in the padding, (B, 1, H, W).
        side: Side of a cell in pixels.

    Returns:
        (B, N_c) in float32, see :func:`cell_means`.
    """
    grey = images.float().mean(dim=1)
    mean = cell_means(grey, content, side)
    # around the cell's own mean: the square of a bright cell's mean would
    # swallow its variance
    rows = -(-grey.shape[1] // side)
    grid = mean.unflatten(1, (rows, -1))
    spread = grid.repeat_interleave(side, 1).repeat_interleave(side, 2)
    apart = grey - spread[:, : grey.shape[1], : grey.shape[2]]
    return cell_means(apart.square(), content, side)


def _pool(maps: Tensor, side: int) -> Tensor:
    """Mean of ``side`` x ``side`` pixels; beyond the edge stand zeros."""
    height, width = maps.shape[2:]
    maps = F.pad(maps, (0, -width % side, 0, -height % side))
    return F.avg_pool2d(maps, side)

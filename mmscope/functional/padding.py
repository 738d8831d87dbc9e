"""Which pixels and cells of a padded batch show some of an image."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def content_mask(
    sizes: Sequence[tuple[int, int]], canvas: tuple[int, int], like: Tensor
) -> Tensor:
    """Mark the pixels of a padded batch that belong to an image.

    Args:
        sizes: Height and width of each image before padding, B.
        canvas: Height and width of the batch, H and W.
        like: Tensor whose device and dtype the mask takes.

    Returns:
        1 inside and 0 in the padding, (B, 1, H, W).
    """
    mask = like.new_zeros(len(sizes), 1, *canvas)
    for image, (height, width) in zip(mask, sizes, strict=True):
        image[:, :height, :width] = 1
    return mask


def valid_cells(content: Tensor, stride: int) -> Tensor:
    """Mark the cells that show at least one pixel of an image.

    Args:
        content: 1 where a pixel is no padding, (B, 1, H, W).
        stride: Side of a cell in pixels.

    Returns:
        (B, ceil(H / stride), ceil(W / stride)) bool.
    """
    cells = F.max_pool2d(content, stride, stride, ceil_mode=True)
    return cells.squeeze(1) > 0

"""Pictures of what stands for what once tokens are reduced."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from mmscope.models.token_reduction import collect_sequences

from .answers import image_seen
from .figure import save_figure


@torch.no_grad()
def token_slots(
    model: nn.Module, item: dict
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Which token stands for each cell of an image, after every block.

    Args:
        model: A model whose backbone has ``token_reduction``.
        item: What the test pipeline makes of an image: 'inputs' and
            'data_samples'.

    Returns:
        What the model saw of the image, (H, W, 3) RGB, and for each block
        the token of every cell, (h, w), -1 for none; under slide inference
        both are those of the first window.

    Raises:
        ValueError: the backbone reduces no tokens.
    """
    net = model.backbone
    if getattr(net, 'token_reduction', None) is None:
        raise ValueError(
            f'{type(net).__name__} reduces no tokens: set '
            'model.backbone.token_reduction'
        )
    batch = dict(
        inputs=[item['inputs']], data_samples=[item['data_samples'].clone()]
    )
    sizes = []
    hook = net.register_forward_pre_hook(
        lambda _, args: sizes.append(tuple(args[0].shape[2:]))
    )
    with collect_sequences() as passes:
        model.eval().test_step(batch)
    hook.remove()
    padded = (-(-side // net.patch_size) * net.patch_size for side in sizes[0])
    grid = net.grid_of(tuple(padded))
    slots = [one.slots[0].view(grid).cpu().numpy() for one in passes[0]]
    height, width = sizes[0]
    return image_seen(item['inputs'], model)[:height, :width], slots


def paint_tokens(
    image: np.ndarray, slots: np.ndarray, side: int
) -> np.ndarray:
    """Paint every cell with the mean colour of those that share its token.

    A line goes between tokens; a cell without one is faded.

    Args:
        image: (H, W, 3), RGB.
        slots: Token of each cell, -1 for none, (h, w).
        side: Side of a cell in pixels.

    Returns:
        (H, W, 3), RGB.
    """
    height, width = image.shape[:2]
    pixels = slots.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]
    painted = np.zeros_like(image)
    for slot in np.unique(pixels[pixels >= 0]):
        here = pixels == slot
        painted[here] = image[here].mean(axis=0)
    lost = pixels < 0
    painted[lost] = (0.25 * image[lost] + 0.75 * 235).astype(image.dtype)
    border = np.zeros_like(lost)
    border[:, 1:] |= pixels[:, 1:] != pixels[:, :-1]
    border[1:] |= pixels[1:] != pixels[:-1]
    painted[border & ~lost] = 0.5 * painted[border & ~lost]
    return painted


def draw_tokens(
    images: Sequence[tuple[np.ndarray, list[np.ndarray]]],
    side: int,
    path: Path,
) -> None:
    """Draw images as rows: as seen, and after each reduction of tokens.

    Args:
        images: Image and tokens by block, of :func:`token_slots`.
        side: Side of a cell in pixels.
        path: Picture to write.
    """
    rows = [_panels(image, blocks, side) for image, blocks in images]
    columns = max(map(len, rows))
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(2.4 * columns, 2.6 * len(rows)),
        squeeze=False,
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for line, row in zip(axes, rows, strict=True):
        for axis, (panel, title) in zip(line, row, strict=False):
            axis.imshow(panel)
            axis.set_title(title, fontsize=8)
    save_figure(figure, path)


def _panels(
    image: np.ndarray, blocks: list[np.ndarray], side: int
) -> list[tuple[np.ndarray, str]]:
    """What is drawn of an image: only blocks at which its tokens change."""
    # cells are drawn in whole pixels
    scale = max(1, round(224 / max(image.shape[:2])))
    shown = cv2.resize(
        image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST
    )
    panels, before = [(shown, 'seen')], None
    for index, slots in enumerate(blocks):
        number = len(np.unique(slots[slots >= 0]))
        if before is not None and number != before:
            painted = paint_tokens(shown, slots, side * scale)
            panels.append((painted, f'block {index}: {number} tokens'))
        before = number
    return panels

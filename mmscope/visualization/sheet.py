"""Pictures of early exit, side by side."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch

from mmscope.functional import should_exit

from .figure import save_figure
from .scope_pictures import ScopePicture

Panel = tuple[np.ndarray, str, bool]


def draw_scope(
    pictures: Sequence[ScopePicture], eta: float, path: str | Path
) -> None:
    """Draw images as rows of panels, the surest first.

    Args:
        pictures: Images.
        eta: Threshold whose decisions are written beside them.
        path: Picture to write.
    """
    save_figure(_figure(pictures, eta), path)


def render_scope(pictures: Sequence[ScopePicture], eta: float) -> np.ndarray:
    """Draw as :func:`draw_scope` does, into an array.

    Returns:
        (H, W, 3), RGB, uint8.
    """
    figure = _figure(pictures, eta)
    figure.tight_layout()
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return pixels


def _figure(pictures: Sequence[ScopePicture], eta: float) -> plt.Figure:
    """One row for each image, the surest first."""
    ordered = sorted(pictures, key=lambda p: -p.confidence)
    rows = [_panels(picture, eta) for picture in ordered]
    columns = max(len(row) for row in rows)
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(2.5 * columns, sum(map(_height, ordered))),
        squeeze=False,
        gridspec_kw=dict(height_ratios=[_height(p) for p in ordered]),
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for line, row in zip(axes, rows, strict=True):
        for axis, (image, title, bold) in zip(line, row, strict=False):
            axis.imshow(image)
            axis.set_title(
                title, fontsize=8, fontweight='bold' if bold else None
            )
    return figure


def _height(picture: ScopePicture) -> float:
    """Height of a row in inches, for strips of a few pixels, too."""
    height, width = picture.image.shape[:2]
    return 2.4 * min(max(height / width, 0.1), 4.0) + 0.35


def _panels(picture: ScopePicture, eta: float) -> list[Panel]:
    """Panels of one image: picture, title, whether it is the answer."""
    decisions = should_exit(torch.tensor(picture.confidences), eta).tolist()
    exits, refined = all(decisions), not any(decisions)
    cells = 'cells to refine' + ' (not needed)' * exits
    panels = [
        (picture.image, _verdict(picture, decisions, eta), False),
        (heat(picture.image, picture.importance), 'importance', False),
        (outline(picture.image, picture.selected), cells, False),
    ]
    if picture.truth is not None:
        panels.append((picture.truth, 'ground truth', False))
    coarse, fine = _titles(picture)
    panels.append((picture.coarse, coarse + ' = answer' * exits, exits))
    panels.append((picture.fine, fine + ' = answer' * refined, refined))
    return panels


def _verdict(picture: ScopePicture, decisions: list[bool], eta: float) -> str:
    """Say how an image ends, or how many of its windows do."""
    if len(decisions) > 1:
        return (
            f'eta {eta:.3g}: {sum(decisions)} of {len(decisions)} windows exit'
        )
    (exits,) = decisions
    sign, end = ('≥', 'exits') if exits else ('<', 'is refined')
    return f'{picture.confidence:.2f} {sign} {eta:.3g}: {end}'


def _titles(picture: ScopePicture) -> list[str]:
    """Names of both answers, with how good they are."""
    names = ['coarse', 'fine']
    if picture.quality is None:
        return names
    return [
        f'{name}, {quality:.0f} %'
        for name, quality in zip(names, picture.quality, strict=True)
    ]


def heat(image: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Lay a heat map over an image.

    Args:
        image: (H, W, 3).
        importance: (H, W), in [0, 1].
    """
    colours = 255 * plt.get_cmap('inferno')(importance)[..., :3]
    return (0.6 * colours + 0.4 * image).astype(np.uint8)


def outline(image: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """Fade what is not selected and draw the border between.

    Args:
        image: (H, W, 3).
        selected: (H, W) bool.
    """
    faded = np.where(selected[..., None], image, 0.3 * image + 0.7 * 255)
    faded = np.ascontiguousarray(faded.astype(np.uint8))
    contours, _ = cv2.findContours(
        selected.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    thickness = max(1, round(max(image.shape[:2]) / 250))
    return cv2.drawContours(faded, contours, -1, (220, 40, 40), thickness)

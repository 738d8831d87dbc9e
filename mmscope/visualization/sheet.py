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
Span = tuple[float, float]


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
    span = _span(pictures)
    rows = [_panels(picture, eta, span) for picture in ordered]
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


def _span(pictures: Sequence[ScopePicture]) -> Span | None:
    """Lowest and highest score of all images, where one tau judges them."""
    if any(picture.tau is None for picture in pictures):
        return None
    scores = [picture.scores for picture in pictures]
    return min(s.min() for s in scores), max(s.max() for s in scores)


def _panels(
    picture: ScopePicture, eta: float, span: Span | None = None
) -> list[Panel]:
    """Panels of one image: picture, title, whether it is the answer."""
    ends = picture.exits(eta)
    exits, refined = all(ends), not any(ends)
    cells = 'cells to refine' + ' (not needed)' * exits
    if not any(picture.shares):
        cells = 'no cell to refine'
    panels = [
        (picture.image, _verdict(picture, eta), False),
        (
            heat(picture.image, picture.scores, span),
            _scores_title(picture),
            False,
        ),
        (outline(picture.image, picture.selected), cells, False),
    ]
    if picture.truth is not None:
        panels.append((picture.truth, 'ground truth', False))
    coarse, fine = _titles(picture)
    panels.append((picture.coarse, coarse + ' = answer' * exits, exits))
    panels.append((picture.fine, fine + ' = answer' * refined, refined))
    return panels


def _verdict(picture: ScopePicture, eta: float) -> str:
    """Say how an image ends, or how many of its windows do."""
    ends = picture.exits(eta)
    share = f'{100 * picture.refined_share(eta):.0f} % of cells refined'
    if len(ends) > 1:
        return (
            f'eta {eta:.3g}: {sum(ends)} of {len(ends)} windows exit\n{share}'
        )
    confidence = torch.tensor(picture.confidences)
    sure = should_exit(confidence, eta).item()
    value, limit = _apart(picture.confidence, eta, sure)
    if sure:
        return f'{value} ≥ {limit}: exits'
    end = ', no cell to refine: exits' if all(ends) else f': {share}'
    return f'{value} < {limit}{end}'


def _apart(confidence: float, eta: float, sure: bool) -> tuple[str, str]:
    """Write both with two digits, or as many as show which is larger."""
    for digits in range(2, 7):
        value, limit = f'{confidence:.{digits}f}', f'{eta:.{digits + 1}g}'
        if (float(value) >= float(limit)) == sure:
            break
    return value, limit


def _scores_title(picture: ScopePicture) -> str:
    """Name the scores, and what they span if that decides."""
    if picture.tau is None:
        return picture.label
    low, high = picture.scores.min(), picture.scores.max()
    return f'{picture.label}, {low:.2g} to {high:.2g}, tau {picture.tau:.3g}'


def _titles(picture: ScopePicture) -> list[str]:
    """Names of both answers, with how good they are."""
    names = ['coarse', 'fine']
    if picture.tau is not None and not any(picture.shares):
        names[1] = 'fine without tau'
    if picture.quality is None:
        return names
    return [
        f'{name}, {quality:.0f} %'
        for name, quality in zip(names, picture.quality, strict=True)
    ]


def heat(
    image: np.ndarray, scores: np.ndarray, span: Span | None = None
) -> np.ndarray:
    """Lay a heat map over an image.

    Args:
        image: (H, W, 3).
        scores: (H, W).
        span: Scores that are darkest and brightest; by default the lowest
            and the highest.
    """
    low, high = span or (scores.min(), scores.max())
    shown = (scores - low) / max(high - low, 1e-12)
    colours = 255 * plt.get_cmap('inferno')(shown)[..., :3]
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

"""Pictures of what exits, and what it costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import mmcv
import numpy as np
from mmengine.structures import BaseDataElement

from mmscope.analysis.exit_sweep import class_areas, mean_iou

IGNORED = 255


@dataclass(frozen=True)
class ExitPicture:
    """One image and the answers to it.

    Attributes:
        image: (H, W, 3), RGB.
        truth: Labels, (H, W).
        coarse: Labels of the coarse answer, (H, W).
        fine: Labels of the fine answer, (H, W).
        confidence: Of the coarse answer.
        coarse_iou: Mean IoU of the coarse answer.
        fine_iou: Mean IoU of the fine answer.
    """

    image: np.ndarray
    truth: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray
    confidence: float
    coarse_iou: float
    fine_iou: float


class PictureCollector:
    """Keep some images of a run, evenly spread over the dataset.

    Pass it as ``visit`` to :func:`mmscope.analysis.collect_answers`.

    Args:
        num_pictures: Images to keep.
        total: Images of the dataset.
        num_classes: Classes.
    """

    def __init__(
        self, num_pictures: int, total: int, num_classes: int
    ) -> None:
        spread = np.linspace(0, total - 1, min(num_pictures, total))
        self.wanted = set(spread.astype(int).tolist())
        self.num_classes = num_classes
        self.num_seen = 0
        self.pictures: list[ExitPicture] = []

    def __call__(self, easy: BaseDataElement, hard: BaseDataElement) -> None:
        """See the coarse and the fine prediction of the next image."""
        if self.num_seen in self.wanted:
            self.pictures.append(self._picture(easy, hard))
        self.num_seen += 1

    def _picture(
        self, easy: BaseDataElement, hard: BaseDataElement
    ) -> ExitPicture:
        truth = easy.gt_sem_seg.data[0].cpu()
        answers = [s.pred_sem_seg.data[0].cpu() for s in (easy, hard)]
        ious = [
            mean_iou(class_areas(a, truth.long(), self.num_classes, IGNORED))
            for a in answers
        ]
        return ExitPicture(
            mmcv.imread(easy.img_path, channel_order='rgb'),
            truth.numpy(),
            *(answer.numpy() for answer in answers),
            easy.exit_confidence,
            *ious,
        )


def paint(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Colour a label map; what is no class becomes black.

    Args:
        labels: (H, W).
        palette: RGB of each class.

    Returns:
        (H, W, 3), uint8.
    """
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    return colours[labels.astype(np.uint8)]


def draw_contact_sheet(
    pictures: Sequence[ExitPicture],
    palette: Sequence[Sequence[int]],
    eta: float,
    path: str | Path,
) -> None:
    """Draw images with both answers, the surest first.

    Args:
        pictures: Images.
        palette: RGB of each class.
        eta: Threshold whose decisions are written beside them.
        path: Picture to write.
    """
    ordered = sorted(pictures, key=lambda p: -p.confidence)
    figure, axes = plt.subplots(
        len(ordered), 4, figsize=(9, 2.3 * len(ordered)), squeeze=False
    )
    for row, picture in zip(axes, ordered, strict=True):
        exited = picture.confidence >= eta
        panels = (
            (picture.image, f'confidence {picture.confidence:.2f}'),
            (paint(picture.truth, palette), 'ground truth'),
            (
                paint(picture.coarse, palette),
                f'coarse, IoU {100 * picture.coarse_iou:.0f}',
            ),
            (
                paint(picture.fine, palette),
                f'fine, IoU {100 * picture.fine_iou:.0f}',
            ),
        )
        for column, (axis, (image, title)) in enumerate(
            zip(row, panels, strict=True)
        ):
            axis.imshow(image)
            chosen = column == (2 if exited else 3)
            axis.set_title(
                title + (' (answer)' if chosen else ''),
                fontsize=9,
                fontweight='bold' if chosen else None,
            )
            axis.set_axis_off()
    title = f'eta = {eta:g}: exits above, refined below'
    figure.suptitle(title, y=1.0, va='bottom')
    save_figure(figure, path)


def plot_sweep(
    sweep: Sequence[dict],
    random: Sequence[dict],
    oracle: Sequence[dict],
    path: str | Path,
) -> None:
    """Plot mIoU over the exit rate: confidence, chance and oracle.

    Args:
        sweep: Of :func:`mmscope.analysis.sweep_eta`.
        random: Of :func:`mmscope.analysis.random_curve`.
        oracle: Of :func:`mmscope.analysis.oracle_curve`.
        path: Picture to write.
    """
    figure, axis = plt.subplots(figsize=(6.4, 4.4))
    for records, label, style in (
        (oracle, 'oracle', 'C2--'),
        (sweep, 'confidence, by eta', 'C0o-'),
        (random, 'random', 'C7:'),
    ):
        ordered = sorted(records, key=lambda r: r['exit_rate'])
        axis.plot(
            [100 * r['exit_rate'] for r in ordered],
            [r['mIoU'] for r in ordered],
            style,
            label=label,
            markersize=4,
        )
    _annotate_etas(axis, sweep)
    axis.set_xlabel('images that exit early (%)')
    axis.set_ylabel('mIoU (%)')
    axis.grid(alpha=0.3)
    axis.legend()
    save_figure(figure, path)


def _annotate_etas(axis: plt.Axes, sweep: Sequence[dict]) -> None:
    """Write eta beside the points that lie apart from each other."""
    last = None
    for record in sorted(sweep, key=lambda r: r['exit_rate']):
        if last is None or record['exit_rate'] - last > 0.08:
            last = record['exit_rate']
            axis.annotate(
                f'{record["eta"]:.2g}',
                (100 * last, record['mIoU']),
                textcoords='offset points',
                xytext=(3, 5),
                fontsize=8,
            )


def save_figure(figure: plt.Figure, path: str | Path) -> None:
    """Write a figure and forget it; folders are made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110, bbox_inches='tight')
    plt.close(figure)

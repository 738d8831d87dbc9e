"""Sums over the exit decisions about many images."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

# COCO's sizes of objects, in pixels
SIZES = (('small', 32**2), ('medium', 96**2), ('large', float('inf')))
Rates = dict[str, dict[str, float]]


@dataclass(frozen=True)
class ImageRecord:
    """What is kept of one image.

    Attributes:
        image: Path of the file, as the dataset has it.
        exited: 1, 0, or the share of its windows that exited.
        confidence: Confidence of the coarse answer.
        share: Share of its cells that was refined, or None if not known.
        num_cells: Number of its cells, where a single pass scored them.
        scores: Probabilities of the exit head, (K,), or None.
        objects: Class and area in pixels of what it shows, or None without
            ground truth.
        entry: What the task's metric keeps, or None.
        quality: Quality of the answer in points, or None.
        coarse_quality: Quality of the coarse answer in points, or None.
    """

    image: str
    exited: float
    confidence: float
    share: float | None
    num_cells: int | None
    scores: np.ndarray | None
    objects: list[tuple[int, float]] | None
    entry: Any
    quality: float | None
    coarse_quality: float | None


def objects_in(
    sample: dict, ignore_index: int = 255
) -> list[tuple[int, float]] | None:
    """What an image shows: the pixels of each class, or each instance.

    Args:
        sample: Prediction of mmseg or mmdet, as a dict.
        ignore_index: Label of pixels that belong to no class.

    Returns:
        Class and area in pixels of each, or None without ground truth.
    """
    if 'gt_sem_seg' in sample:
        mask = np.asarray(sample['gt_sem_seg']['data'].cpu())
        labels, counts = np.unique(mask, return_counts=True)
        return [
            (int(label), float(count))
            for label, count in zip(labels, counts, strict=True)
            if label != ignore_index
        ]
    if 'instances' in sample:
        return [_instance(one) for one in sample['instances']]
    if 'gt_instances' in sample:
        truth = sample['gt_instances']
        boxes = getattr(truth['bboxes'], 'tensor', truth['bboxes'])
        scale = np.array(sample.get('scale_factor', (1.0, 1.0)))
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) / scale.prod()
        return [
            (int(label), float(area))
            for label, area in zip(truth['labels'], areas, strict=True)
        ]
    return None


def _instance(one: dict) -> tuple[int, float]:
    left, top, right, bottom = one['bbox']
    return int(one['bbox_label']), float((right - left) * (bottom - top))


def rate_by(
    records: Sequence[ImageRecord], group: Callable[[int, float], str]
) -> Rates:
    """Exit rate over the objects of each group.

    Args:
        records: Images.
        group: Name of an object's group from its class and area.

    Returns:
        By group: 'rate', the mean of ``exited`` over the group's objects,
        and 'count', how many these are.
    """
    found: dict[str, list[float]] = {}
    for record in records:
        for label, area in record.objects or ():
            found.setdefault(group(label, area), []).append(record.exited)
    return {
        name: dict(rate=float(np.mean(values)), count=len(values))
        for name, values in found.items()
    }


def head_scores(records: Sequence[ImageRecord]) -> dict[str, float]:
    """Quality of the exit head as a classifier of the classes present.

    Returns:
        'head_mAP', mean average precision over the classes that some image
        shows, and 'head_F1' at 0.5 over all classes and images, in percent;
        nothing without scores or ground truth.
    """
    if any(r.scores is None or r.objects is None for r in records):
        return {}
    scores = np.stack([r.scores for r in records])
    truth = np.zeros_like(scores, dtype=bool)
    for row, record in zip(truth, records, strict=True):
        row[[label for label, _ in record.objects]] = True
    precisions = [
        average_precision(scores[:, k], truth[:, k])
        for k in np.flatnonzero(truth.any(axis=0))
    ]
    predicted = scores >= 0.5
    hits = (predicted & truth).sum()
    total = predicted.sum() + truth.sum()
    return dict(
        head_mAP=100 * float(np.mean(precisions)) if precisions else 0.0,
        head_F1=100 * float(2 * hits / total) if total else 100.0,
    )


def average_precision(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the precision-recall curve, without interpolation.

    Args:
        score: (N,).
        positive: (N,) bool, with at least one.
    """
    ranked = positive[np.argsort(-score, kind='stable')]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return float(precision[ranked].mean())


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve; ties count half.

    Args:
        score: (N,).
        positive: (N,) bool.

    Returns:
        In [0, 1], or NaN where one of the classes is empty.
    """
    above, below = score[positive], np.sort(score[~positive])
    if not above.size or not below.size:
        return float('nan')
    wins = np.searchsorted(below, above, side='left').sum()
    ties = np.searchsorted(below, above, side='right').sum() - wins
    return float((wins + 0.5 * ties) / (above.size * below.size))


def count_shares(records: Sequence[ImageRecord]) -> dict[str, int]:
    """Count the images by the share of their cells that was refined.

    A share is rounded up to whole cells, so that images of several sizes get
    it with a little more: those that one share explains are counted as one.

    Args:
        records: Images; where windows slide, their share is the mean over
            the windows that were refined.

    Returns:
        Number of images by share, ascending, that of exited images first, by
        the name '0'; nothing where the shares are not known.
    """
    if any(record.share is None for record in records):
        return {}
    refined = sorted(
        # of a mean over windows, a hundredth tells shares apart
        (record.share / (1 - record.exited), record.num_cells or 100)
        for record in records
        if record.exited < 1
    )
    counts, least = {'0': len(records) - len(refined)}, -np.inf
    for share, num_cells in refined:
        # a cell less would be less than that share; 1e-6 for rounding
        if share - 1 / num_cells > least - 1e-6:
            least = share
        name = f'{least:.3g}'
        counts[name] = counts.get(name, 0) + 1
    return counts


def statistics_tables(
    histogram: Sequence[int],
    by_class: Rates,
    by_size: Rates,
    shares: Mapping[str, int] | None = None,
) -> str:
    """Tables for the log.

    Args:
        histogram: Number of images by confidence, in equal steps to 1.
        by_class: Exit rates by class.
        by_size: Exit rates by size.
        shares: Numbers of images by share of refined cells, or none.
    """
    sheet = Table('confidence', 'images', title='Confidence')
    for index, count in enumerate(histogram):
        low, high = index / len(histogram), (index + 1) / len(histogram)
        sheet.add_row(f'{low:.1f} to {high:.1f}', str(count))
    tables = [sheet]
    if shares:
        sheet = Table('share', 'images', title='Refined cells')
        for share, count in shares.items():
            sheet.add_row('exited' if share == '0' else share, str(count))
        tables.append(sheet)
    for name, rates in (('class', by_class), ('size', by_size)):
        if rates:
            tables.append(_rate_table(name, rates))
    with io.StringIO() as text:
        console = Console(file=text, width=78, markup=False)
        for table in tables:
            console.print(table)
        return text.getvalue()


def _rate_table(name: str, rates: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(name, 'exit rate', 'objects', title=f'Exits by {name}')
    for key, values in sorted(rates.items(), key=lambda kv: -kv[1]['rate']):
        table.add_row(str(key), f'{values["rate"]:.3f}', str(values['count']))
    return table

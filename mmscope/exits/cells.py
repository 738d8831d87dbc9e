"""Comparing scores of cells: what refining by each of them gives."""

from collections.abc import Iterator, Mapping, Sequence
from math import inf

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement
from rich.progress import Progress
from torch import nn
from torch.utils.data import DataLoader

from mmscope.evaluation.task_metric import TaskMetric
from mmscope.models import ScopeResult, collect_passes, exit_settings
from mmscope.utils.structures import canvas_of
from mmscope.visualization.scope_pictures import cells_on_canvas

from .answering import item_of, predict_timed
from .collect_elastic import ShareCost
from .replay import Record

SCORES: dict[str, dict] = dict(
    importance=dict(type='mmscope.Importance'),
    unimportance=dict(type='mmscope.Importance', largest_first=False),
    chance=dict(type='mmscope.Random'),
    contrast=dict(type='mmscope.CellContrast'),
    uncertainty=dict(type='mmscope.CoarseUncertainty'),
    oracle=dict(type='mmscope.Oracle'),
)
OWN_SCORE = 'model'


@torch.no_grad()
def compare_cells(
    model: nn.Module,
    loader: DataLoader,
    metric: TaskMetric,
    scores: Mapping[str, dict | nn.Module],
    alphas: Sequence[float],
    cost: ShareCost,
) -> list[Record]:
    """Refine every image by each score, with each share of its cells.

    Args:
        model: A model of mmscope.
        loader: Images with ground truth.
        metric: Metric of the task.
        scores: Scores of cells, or their configs, by name.
        alphas: Shares of cells, ascending.
        cost: GFLOPs of the coarse answer and of each share by image size.

    Returns:
        'cells' (the name), 'alpha', 'score' (the metric's main one in
        points), 'gflops' (mean per image), 'objects' and 'edges' (shares of
        the pixels of objects and of their edges that were refined, see
        :func:`marked_pixels`; NaN where there are none); first of all for
        the coarse answers, by the name 'none' at alpha 0.
    """
    model.eval()
    coarse, costs = [], []
    for batch in loader:
        samples, _ = predict_timed(model, batch, 0.0)
        coarse += metric.entries(samples)
        costs += [cost(canvas_of(one)) for one in samples]
    mean_costs = np.mean(costs, axis=0)
    records = [
        dict(
            cells='none',
            alpha=0.0,
            score=metric.main_score(coarse),
            gflops=float(mean_costs[0]),
            objects=0.0,
            edges=0.0,
        )
    ]
    rounds = [
        (name, config, alpha, gflops)
        for name, config in scores.items()
        for alpha, gflops in zip(alphas, mean_costs[1:], strict=True)
    ]
    with Progress() as progress:
        task = progress.add_task(
            'Cells', total=len(rounds) * len(loader.dataset)
        )
        for name, config, alpha, gflops in rounds:
            entries, found = [], np.zeros((2, 2))
            with exit_settings(
                model, eta=1.0, alpha=alpha, tau=-inf, cell_score=config
            ):
                for sample, passes in _one_by_one(model, loader):
                    entries += metric.entries([sample])
                    found += _refined(model, sample, passes)
                    progress.advance(task)
            refined, total = found
            with np.errstate(invalid='ignore'):
                objects, edges = refined / total
            records.append(
                dict(
                    cells=name,
                    alpha=float(alpha),
                    score=metric.main_score(entries),
                    gflops=float(gflops),
                    objects=float(objects),
                    edges=float(edges),
                )
            )
    return records


def _one_by_one(
    model: nn.Module, loader: DataLoader
) -> Iterator[tuple[BaseDataElement, list[ScopeResult]]]:
    """Predictions for each image, and the records of its passes."""
    for batch in loader:
        for index in range(len(batch['data_samples'])):
            with collect_passes(model) as passes:
                (sample,), _ = predict_timed(model, item_of(batch, index), 1.0)
            yield sample, passes


def _refined(
    model: nn.Module, sample: BaseDataElement, passes: Sequence[ScopeResult]
) -> np.ndarray:
    """Pixels of objects and of edges that are refined, and all of them.

    Returns:
        (2, 2): refined and all in rows, objects and edges in columns.
    """
    marked = marked_pixels(sample)
    _, selected = cells_on_canvas(model, passes, canvas_of(sample))
    height, width = sample.metainfo['img_shape'][:2]
    shown = selected[:height, :width].astype(np.uint8)
    size = marked.shape[2:0:-1]
    shown = cv2.resize(shown, size, interpolation=cv2.INTER_NEAREST) > 0
    return np.stack([(marked & shown).sum((1, 2)), marked.sum((1, 2))])


def marked_pixels(sample: BaseDataElement) -> np.ndarray:
    """Pixels of an image's objects, and of the edges between regions.

    In segmentation, objects are all regions but the largest class of the
    image, and an edge is a pixel whose right or lower neighbour has another
    label. In detection they are boxes and the borders of boxes.

    Args:
        sample: Prediction of mmseg or mmdet with its ground truth.

    Returns:
        (2, H, W) bool, of the image file's size.

    Raises:
        ValueError: there is no ground truth.
    """
    if 'gt_sem_seg' in sample:
        labels = sample.gt_sem_seg.data[0].cpu().numpy()
        classes, counts = np.unique(labels, return_counts=True)
        objects = labels != classes[counts.argmax()]
    elif 'gt_instances' in sample:
        labels = _box_labels(sample)
        objects = labels > 0
    else:
        raise ValueError(
            f'{sample.metainfo.get("img_path", "an image")} has no ground '
            'truth, which tells where objects and edges are; let the test '
            'pipeline load it'
        )
    edges = np.zeros_like(objects)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return np.stack([objects, edges])


def _box_labels(sample: BaseDataElement) -> np.ndarray:
    """Number of the box that a pixel is in, the smallest one; 0 for none."""
    boxes = sample.gt_instances.bboxes
    boxes = getattr(boxes, 'tensor', boxes).cpu().numpy().round().astype(int)
    labels = np.zeros(sample.metainfo['ori_shape'][:2], int)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for number in np.argsort(-areas, kind='stable'):
        left, top, right, bottom = boxes[number].clip(min=0)
        labels[top:bottom, left:right] = number + 1
    return labels

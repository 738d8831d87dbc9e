"""The answers to every image of a dataset with every share of its cells."""

import functools
from collections.abc import Callable, Iterator, Sequence
from math import nan

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from mmscope.evaluation.task_metric import TaskMetric
from mmscope.models import exit_settings, require_exits
from mmscope.utils.flops import model_flops
from mmscope.utils.structures import canvas_of
from mmscope.utils.windows import slides

from .answering import answer_images, predict_timed
from .cache import AnswerCache
from .elastic import ElasticAnswers, ElasticImage

ShareCost = Callable[[tuple[int, int]], tuple[float, ...]]


@torch.no_grad()
def collect_elastic(
    model: nn.Module,
    loader: DataLoader,
    metric: TaskMetric,
    cache: AnswerCache | None = None,
    cost: ShareCost | None = None,
    indices: Sequence[int] | None = None,
) -> ElasticAnswers:
    """Answer images with every share of their cells refined, and with none.

    Args:
        model: A model of mmscope whose alpha is a ladder, or with tau.
        loader: Batches of images with ground truth.
        metric: Metric of the task.
        cache: Answers that are there already, and place for the others.
        cost: GFLOPs of the coarse answer and of each share by image size.
        indices: Places of the images in the dataset; by default all.

    Raises:
        ValueError: the model has no exit head or slides windows over images,
            or the loader is empty.
    """
    require_exits(model, 'choosing eta and tau')
    if slides(model):
        raise ValueError(
            "test_cfg.mode='slide' refines each window by its own cells, and "
            'eta and tau are chosen by whole images; add '
            '--cfg-options model.test_cfg.mode=whole'
        )
    model.eval()
    images = answer_images(
        loader,
        cache or AnswerCache(None),
        lambda batch: _answer_elastic(model, batch, metric, cost),
        indices,
        title='Answers by share',
    )
    return ElasticAnswers(images)


def count_share_gflops(model: nn.Module) -> ShareCost:
    """Count the GFLOPs of a coarse answer and of each share, by image size.

    Args:
        model: A model of mmscope; :func:`model_flops` says what is counted.
    """

    @functools.cache
    def count(size: tuple[int, int]) -> tuple[float, ...]:
        flops = model_flops(model, size)
        parts = [flops.exited, *flops.by_share.values()]
        return tuple(part.total() / 1e9 for part in parts)

    return count


def _answer_elastic(
    model: nn.Module,
    batch: dict,
    metric: TaskMetric,
    cost: ShareCost | None,
) -> Iterator[ElasticImage]:
    """Answer a batch with every share of the cells, in order."""
    shares = model.backbone.exit_settings.shares
    coarse, seconds = predict_timed(model, batch, 0.0)
    answers, times = [coarse], [seconds / len(coarse)]
    for share in shares:
        with exit_settings(model, alpha=share):
            samples, seconds = predict_timed(model, batch, 1.0)
        answers.append(samples)
        times.append(seconds / len(coarse))
    entries = zip(*map(metric.entries, answers), strict=True)
    for i, of_image in enumerate(entries):
        scores = answers[-1][i].cell_scores.float().cpu().numpy()
        canvas = canvas_of(coarse[i])
        yield ElasticImage(
            name=coarse[i].metainfo.get('img_path', ''),
            confidence=coarse[i].exit_confidence,
            num_cells=len(scores),
            cell_scores=-np.sort(-scores[scores != -np.inf]),
            shares=shares,
            entries=of_image,
            quality=tuple(map(metric.quality, of_image)),
            gflops=cost(canvas) if cost else (nan,) * len(of_image),
            seconds=tuple(times),
        )

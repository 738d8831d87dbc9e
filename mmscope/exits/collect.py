"""Both answers to every image of a dataset."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from math import inf, isfinite, nan

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from mmscope.evaluation.task_metric import Entry, TaskMetric
from mmscope.models import (
    ScopeResult,
    coarse_answers,
    collect_passes,
    require_exits,
)
from mmscope.utils.flops import model_flops
from mmscope.utils.structures import canvas_of
from mmscope.utils.windows import slides, windows

from .answering import answer_images, item_of, predict_timed
from .answers import ExitAnswers, ImageAnswers, gather
from .cache import AnswerCache
from .calibration import eta_of_count

Cost = Callable[[tuple[int, int]], tuple[float, float]]
OWN_POLICY = 'model'


@torch.no_grad()
def collect_answers(
    model: nn.Module,
    loader: DataLoader,
    metric: TaskMetric,
    cache: AnswerCache | None = None,
    policies: Mapping[str, nn.Module] | None = None,
    cost: Cost | None = None,
    indices: Sequence[int] | None = None,
) -> dict[str, ExitAnswers]:
    """Answer images at eta = 0 and at eta = 1.

    Args:
        model: A model of mmscope with an exit head.
        loader: Batches of images with ground truth.
        metric: Metric of the task.
        cache: Answers that are there already, and place for the others.
        policies: More exit policies whose confidences are wanted.
        cost: GFLOPs of both paths by image size (H, W).
        indices: Places of the images in the dataset; by default all.

    Returns:
        The answers under the model's own confidence, by the name 'model',
        and under that of each policy.

    Raises:
        ValueError: the model has no exit head, or the loader is empty.
    """
    require_exits(model, 'choosing eta')
    policies = dict(policies or {})
    names = OWN_POLICY, *policies
    model.eval()
    images = answer_images(
        loader,
        cache or AnswerCache(None),
        lambda batch: _answer(model, batch, metric, policies, cost),
        indices,
        is_enough=lambda one: one.confidence.keys() >= set(names),
        merge=with_confidences_of,
        title='Both answers',
    )
    return {name: gather(images, name) for name in names}


def with_confidences_of(
    old: ImageAnswers | None, new: ImageAnswers
) -> ImageAnswers:
    """Keep what other policies said of an image that is answered again."""
    if old is None:
        return new
    return replace(new, confidence={**old.confidence, **new.confidence})


def count_gflops(model: nn.Module) -> Cost:
    """Count the GFLOPs of an exited and of a refined image of each size.

    Under slide inference these are those of all windows of the image.

    Args:
        model: A model of mmscope; :func:`model_flops` says what is counted.
    """

    @functools.cache
    def count(size: tuple[int, int]) -> tuple[float, float]:
        parts = [size]
        if slides(model):
            crop, stride = model.test_cfg.crop_size, model.test_cfg.stride
            parts = [
                tuple(side.stop - side.start for side in window)
                for window in windows(size, crop, stride)
            ]
        flops = [model_flops(model, part) for part in parts]
        exited = sum(one.exited.total() for one in flops)
        refined = sum(one.refined.total() for one in flops)
        return exited / 1e9, refined / 1e9

    return count


def _answer(
    model: nn.Module,
    batch: dict,
    metric: TaskMetric,
    policies: Mapping[str, nn.Module],
    cost: Cost | None,
) -> Iterator[ImageAnswers]:
    """Answer a batch both ways, in order."""
    coarse, coarse_seconds = predict_timed(model, batch, 0.0)
    recording = collect_passes(model) if policies else nullcontext([])
    with recording as passes:
        fine, fine_seconds = predict_timed(model, batch, 1.0)
    seconds = coarse_seconds / len(coarse), fine_seconds / len(fine)
    others = _compare(model, batch, passes, policies)
    ends = zip(metric.entries(fine), metric.entries(coarse), strict=True)
    for i, (fine_entry, coarse_entry) in enumerate(ends):
        own = coarse[i].exit_confidence
        shown, between = (own,), ()
        if slides(model):
            shown, between = _windows(model, item_of(batch, i), metric)
        yield ImageAnswers(
            name=coarse[i].metainfo.get('img_path', ''),
            confidence={OWN_POLICY: own, **others[i]},
            windows=shown,
            entries=(fine_entry, *between, coarse_entry),
            quality=tuple(map(metric.quality, (coarse_entry, fine_entry))),
            gflops=cost(canvas_of(coarse[i])) if cost else (nan, nan),
            seconds=seconds,
        )


def _compare(
    model: nn.Module,
    batch: dict,
    passes: Sequence[ScopeResult],
    policies: Mapping[str, nn.Module],
) -> list[dict[str, float]]:
    """What policies say of the coarse passes over a batch, by image."""
    if not policies:
        return [{} for _ in batch['data_samples']]
    judged = []
    for one in passes:
        evidence = one.decision.evidence
        compared = {name: judge(evidence) for name, judge in policies.items()}
        decision = one.decision._replace(compared=compared)
        judged.append(replace(one, decision=decision))
    # no pass is run: predictions say which image a confidence belongs to
    with coarse_answers(model, judged):
        samples = predict_timed(model, batch)[0]
    return [sample.exit_confidences for sample in samples]


def _windows(
    model: nn.Module, item: dict, metric: TaskMetric
) -> tuple[tuple[float, ...], tuple[Entry, ...]]:
    """Confidences of an image's windows, and the answers between both ends.

    Args:
        model: A model that slides windows over images.
        item: Batch of one image.
        metric: Metric of the task.

    Returns:
        Confidences, highest first, (W,), and what the metric keeps of the
        answers in which the 1, ..., W - 1 surest windows exited.
    """
    with collect_passes(model) as passes:
        predict_timed(model, item, 0.0)
    confidence = [one.confidence.item() for one in passes]
    etas = [
        eta_of_count(np.array(confidence), count)
        for count in range(1, len(confidence))
    ]
    # equal windows exit together, and ask for no answer between
    entries = {
        eta: metric.entries(predict_timed(model, item, eta)[0])[0]
        for eta in set(etas)
    }
    ordered = sorted(confidence, key=lambda c: -c if isfinite(c) else inf)
    return tuple(ordered), tuple(entries[eta] for eta in etas)

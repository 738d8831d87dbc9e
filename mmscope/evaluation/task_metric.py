"""Metrics of mmseg, mmdet and mmpretrain on a chosen answer per image."""

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.structures import BaseDataElement

Entry = Any


class MainScore(NamedTuple):
    """The score of a metric that curves show and budgets are about.

    Attributes:
        name: Key of the score among the metric's.
        points: Points of 0 to 100 in one unit of it: 1 for percent, 100 for
            shares.
    """

    name: str
    points: float


class TaskMetric:
    """The metric of a task, computed again for any mixture of answers.

    A metric of mmengine turns every prediction into one entry of its
    ``results`` and these into scores. Keeping the entries of the coarse and
    of the fine answer to every image is enough to score what each threshold
    gives, by the metric's own code.

    Args:
        metric: Metric that ``MAIN_SCORES`` knows, or one derived from it,
            which appends one entry for each image.

    Attributes:
        main: Name of the score that curves show.
        right_or_wrong: Whether an answer is just that, as in classification.

    Raises:
        ValueError: the metric is not known, or gives no scores.
    """

    def __init__(self, metric: BaseMetric) -> None:
        if reason := why_no_main_score(metric):
            raise ValueError(reason)
        kind = known_kind(metric)
        self.metric = metric
        self.main, self._points = MAIN_SCORES[kind](metric)
        self.right_or_wrong = kind == 'Accuracy'
        self._own_quality = QUALITIES.get(kind)
        self._has_objects = HAS_OBJECTS.get(kind, lambda _: True)
        self._matcher = None
        self._keeps_truth = False
        if kind == 'CocoMetric':
            # pycocotools is there where CocoMetric is
            from .coco_matches import CocoMatcher, ground_truth

            self._keeps_truth = ground_truth(metric) is not None
            if self._keeps_truth:
                self._matcher = CocoMatcher(metric)

    def entries(self, samples: Sequence[BaseDataElement]) -> list[Entry]:
        """Judge predictions, one entry for each.

        Raises:
            ValueError: the metric does not keep one entry for each image.
        """
        return self.judge([sample.to_dict() for sample in samples])

    def judge(self, samples: Sequence[dict]) -> list[Entry]:
        """The same for predictions as dicts, as metrics get them."""
        self.metric.results.clear()
        self.metric.process({}, samples)
        entries = list(self.metric.results)
        self.metric.results.clear()
        if len(entries) != len(samples):
            raise ValueError(
                f'{type(self.metric).__name__} keeps {len(entries)} results '
                f'of {len(samples)} images, so that the answers cannot be '
                f'exchanged; use one of {sorted(MAIN_SCORES)}'
            )
        if self._matcher is None:
            return entries
        with _silence():
            return self._matcher.match(entries)

    def score(self, entries: Sequence[Entry]) -> dict[str, float]:
        """Compute the metric's scores on one entry for each image."""
        entries = list(entries)
        with _silence(), self._judging(entries) as judged:
            scores = self.metric.compute_metrics(judged)
        return {name: float(value) for name, value in scores.items()}

    def main_score(self, entries: Sequence[Entry]) -> float:
        """Compute the score that curves show, in points of 0 to 100.

        Returns:
            NaN where there is nothing to find.

        Raises:
            ValueError: the metric does not give it.
        """
        if not any(map(self._has_objects, entries)):
            return math.nan
        if self._matcher is not None:
            with _silence():
                return 100 * self._matcher.average_precision(entries)
        scores = self.score(entries)
        if self.main not in scores:
            raise ValueError(
                f'{type(self.metric).__name__} gives {sorted(scores)} and no '
                f'{self.main}; add it to '
                'mmscope.evaluation.task_metric.MAIN_SCORES'
            )
        score = self.in_points(scores[self.main])
        # pycocotools says -1 where there is nothing to find
        return score if score >= 0 else math.nan

    def in_points(self, score: float) -> float:
        """The main score, as the metric gives it, in points of 0 to 100."""
        return self._points * score

    def quality(self, entry: Entry) -> float:
        """How good the answer to one image is, in points of 0 to 100.

        Mean IoU over the classes predicted or present, AP on this image, or
        0 and 100 for classification. An image with nothing to find scores
        100.
        """
        if self._own_quality is not None:
            return self._own_quality(entry)
        value = self.main_score([entry])
        return 100.0 if math.isnan(value) else value

    @contextlib.contextmanager
    def _judging(self, entries: list[Entry]) -> Iterator[list[Entry]]:
        """Let a metric of COCO judge these images only, as it takes them."""
        if not hasattr(self.metric, 'img_ids'):
            yield entries
            return
        from .coco_matches import forget_ground_truth, with_a_detection

        entries = with_a_detection([entry[:2] for entry in entries])
        self.metric.img_ids = [truth['img_id'] for truth, _ in entries]
        try:
            yield entries
        finally:
            if not self._keeps_truth:
                forget_ground_truth(self.metric)


def _mean_iou(entry: Entry) -> float:
    """Mean IoU of IoUMetric's areas of one image, (K,) each."""
    intersection, union = entry[0], entry[1]
    seen = union > 0
    if not seen.any():
        return 100.0
    return 100 * float((intersection[seen] / union[seen]).mean())


def _coco_score(metric: BaseMetric) -> MainScore:
    for kind in ('segm', 'bbox'):
        if kind in metric.metrics:
            return MainScore(f'{kind}_mAP', 100)
    raise ValueError(
        f"CocoMetric has metric={metric.metrics}; add 'bbox' or 'segm', which "
        'can be computed of any choice among answers'
    )


def _voc_score(metric: BaseMetric) -> MainScore:
    if metric.metric != 'mAP':
        raise ValueError(
            f"VOCMetric has metric={metric.metric!r}; set metric='mAP'"
        )
    return MainScore('mAP', 100)


# by the metric's class or the nearest one that it derives from
MAIN_SCORES: dict[str, Callable[[BaseMetric], MainScore]] = {
    'IoUMetric': lambda m: MainScore(m.metrics[0], 1),
    'CocoMetric': _coco_score,
    'VOCMetric': _voc_score,
    'Accuracy': lambda m: MainScore(f'top{m.topk[0]}', 1),
}
# a faster way to judge one image
QUALITIES: dict[str, Callable[[Entry], float]] = {'IoUMetric': _mean_iou}
# whether an image shows any, where the metric gives 0 to those that do not
HAS_OBJECTS: dict[str, Callable[[Entry], bool]] = {
    'VOCMetric': lambda entry: len(entry[0]['labels']) > 0
}


def known_kind(metric: BaseMetric) -> str | None:
    """The key of ``MAIN_SCORES`` that a metric goes by, None without."""
    names = (kind.__name__ for kind in type(metric).__mro__)
    return next((name for name in names if name in MAIN_SCORES), None)


def why_no_main_score(metric: BaseMetric) -> str | None:
    """Why answers cannot be compared by a metric, None if they can."""
    name = type(metric).__name__
    if known_kind(metric) is None:
        return (
            f'nothing says which score of {name} is the main one and whether '
            f'it is a share or in percent: use one of {sorted(MAIN_SCORES)}, '
            f'derive from it, or add {name} to '
            'mmscope.evaluation.task_metric.MAIN_SCORES'
        )
    if getattr(metric, 'format_only', False):
        return (
            f'{name} has format_only=True, so that it gives no scores: set '
            'format_only=False, which needs ground truth'
        )
    return None


def find_task_metric(metrics: Sequence[BaseMetric]) -> TaskMetric:
    """Take the task's metric out of an evaluator's.

    Args:
        metrics: Metrics of an evaluator; the first that ``MAIN_SCORES``
            knows is taken.

    Raises:
        ValueError: there is none.
    """
    names = [type(metric).__name__ for metric in metrics]
    for metric in metrics:
        if known_kind(metric) is not None:
            return TaskMetric(metric)
    raise ValueError(
        f'test_evaluator has {names}, and eta is chosen by one of '
        f'{sorted(MAIN_SCORES)}; set it, for example to '
        "[dict(type='IoUMetric')], or add yours to "
        'mmscope.evaluation.task_metric.MAIN_SCORES'
    )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep tables and pycocotools' prints out of hundreds of scores."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with open(os.devnull, 'w') as sink, contextlib.redirect_stdout(sink):
            yield
    finally:
        logger.setLevel(level)

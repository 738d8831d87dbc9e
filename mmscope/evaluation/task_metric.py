"""Metrics of mmseg, mmdet and mmpretrain on a chosen answer per image."""

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.structures import BaseDataElement

Entry = Any


class TaskMetric:
    """The metric of a task, computed again for any mixture of answers.

    A metric of mmengine turns every prediction into one entry of its
    ``results`` and these into scores. Keeping the entries of the coarse and
    of the fine answer to every image is enough to score what each threshold
    gives, by the metric's own code.

    Args:
        metric: IoUMetric, CocoMetric, Accuracy, or another metric that
            appends one entry for each image.

    Attributes:
        main: Name of the score that curves show.
    """

    def __init__(self, metric: BaseMetric) -> None:
        self.metric = metric
        kind = type(metric).__name__
        self.main = MAIN_SCORES.get(kind, lambda _: '')(metric)
        self._own_quality = QUALITIES.get(kind)
        self._matcher = None
        if kind == 'CocoMetric' and metric._coco_api is not None:
            # pycocotools is there where CocoMetric is
            from .coco_matches import CocoMatcher

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
                'exchanged; use IoUMetric, CocoMetric or Accuracy'
            )
        if self._matcher is None:
            return entries
        with _silence():
            return self._matcher.match(entries)

    def score(self, entries: Sequence[Entry]) -> dict[str, float]:
        """Compute the metric's scores on one entry for each image."""
        if hasattr(self.metric, 'img_ids'):  # COCO: judge these images only
            from .coco_matches import with_a_detection

            entries = with_a_detection([entry[:2] for entry in entries])
            self.metric.img_ids = [truth['img_id'] for truth, _ in entries]
        with _silence():
            scores = self.metric.compute_metrics(list(entries))
        return {name: float(value) for name, value in scores.items()}

    def main_score(self, entries: Sequence[Entry]) -> float:
        """Compute the score that curves show, in percent."""
        if self._matcher is not None:
            with _silence():
                return 100 * self._matcher.average_precision(entries)
        scores = self.score(entries)
        name = self.main or next(iter(scores))
        shares = type(self.metric).__name__ == 'CocoMetric'
        return 100 * scores[name] if shares else scores[name]

    def quality(self, entry: Entry) -> float:
        """How good the answer to one image is, in percent.

        Mean IoU over the classes predicted or present, AP on this image, or
        0 and 100 for classification. An image with nothing to find scores
        100.
        """
        if self._own_quality is not None:
            return self._own_quality(entry)
        value = self.main_score([entry])
        # pycocotools says -1 where there is nothing to find
        return value if value >= 0 and not math.isnan(value) else 100.0


def _mean_iou(entry: Entry) -> float:
    """Mean IoU of IoUMetric's areas of one image, (K,) each."""
    intersection, union = entry[0], entry[1]
    seen = union > 0
    if not seen.any():
        return 100.0
    return 100 * float((intersection[seen] / union[seen]).mean())


# how a metric's main score is named, and a faster way to judge one image
MAIN_SCORES: dict[str, Callable[[BaseMetric], str]] = {
    'IoUMetric': lambda _: 'mIoU',
    'CocoMetric': lambda m: 'segm_mAP' if 'segm' in m.metrics else 'bbox_mAP',
    'Accuracy': lambda _: 'top1',
}
QUALITIES: dict[str, Callable[[Entry], float]] = {'IoUMetric': _mean_iou}


def find_task_metric(metrics: Sequence[BaseMetric]) -> TaskMetric:
    """Take the task's metric out of an evaluator's.

    Raises:
        ValueError: there is none beside the exit statistics.
    """
    for metric in metrics:
        if type(metric).__name__ != 'ExitMetric':
            return TaskMetric(metric)
    raise ValueError(
        'the config has no metric of a task; set test_evaluator, for example '
        "to dict(type='IoUMetric')"
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

"""Exit statistics beside the metrics of the task."""

import copy
from collections.abc import Sequence

import mmengine
import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger

from mmscope.models import image_key
from mmscope.registry import METRICS

from .exit_statistics import (
    SIZES,
    ImageRecord,
    auroc,
    count_shares,
    head_scores,
    objects_in,
    rate_by,
    statistics_tables,
)
from .task_metric import TaskMetric

HISTOGRAM_BINS = 10


@METRICS.register_module()
class ExitMetric(BaseMetric):
    """Which images kept the coarse answer, how surely, and at what price.

    It works beside IoUMetric and CocoMetric in any config and in distributed
    evaluation. It reports

    - 'rate', the share of images (or of their windows) that exited, and the
      mean 'confidence';
    - 'mean_share', the mean share of cells that were refined, 0 of exited
      images, where images were refined with several shares;
    - 'head_mAP' and 'head_F1' of the exit head as a classifier of the
      classes present, where predictions carry ``exit_scores`` and there is
      ground truth;
    - the task's main score on 'exited' and on 'refined' images, in testing
      with :class:`ExitStatisticsHook` or wherever ``task`` is set;
    - 'auroc', how well confidence tells that the coarse answer is as good as
      the fine one, where predictions carry ``coarse_answer``: set the
      model's ``keep_coarse`` and eta = 1;

    and logs the histogram of confidence, that of the shares where there are
    several, and the exit rate of images by the classes and by the sizes of
    the objects that they show.

    Args:
        out_file: Json file for the decision about each image, or None.
        statistics_file: Json file for the metrics, the histograms and the
            rates, or None.
        task: Config of the task's metric, such as IoUMetric's, or None.
        tolerance: Points that a coarse answer "as good" may lack.
        ignore_index: Label of pixels that belong to no class, as the task's
            metric and head have it.
        collect_device: Where results of several processes meet.
        prefix: Prefix of the metrics' names.
    """

    default_prefix = 'exit'

    def __init__(
        self,
        out_file: str | None = None,
        statistics_file: str | None = None,
        task: dict | None = None,
        tolerance: float = 5.0,
        ignore_index: int = 255,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.out_file = out_file
        self.statistics_file = statistics_file
        self.tolerance = tolerance
        self.ignore_index = ignore_index
        self.task = None
        if task is not None:
            self.task = TaskMetric(METRICS.build(task))

    def judge_by(self, metric: BaseMetric) -> None:
        """Judge answers as another metric does, which stays as it is.

        Args:
            metric: The task's, such as IoUMetric, with its ``dataset_meta``.
        """
        # a copy shares what is large: COCO's annotations are read once
        own = copy.copy(metric)
        own.results = []
        if getattr(own, 'output_dir', None):
            own.output_dir = None  # the other one writes its predictions
        self.task = TaskMetric(own)

    @property
    def dataset_meta(self) -> dict | None:
        """Classes and palette of the dataset, needed by the task's metric."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        self._dataset_meta = meta
        if self.task is not None:
            self.task.metric.dataset_meta = meta

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Record the decision about each image.

        Raises:
            KeyError: a prediction has none.
        """
        for sample in data_samples:
            if 'exited' not in sample:
                raise KeyError(
                    'ExitMetric needs predictions with `exited`; use a model '
                    'of mmscope with an exit head'
                )
            entry = quality = coarse_quality = None
            if self.task is not None:
                (entry,) = self.task.judge([sample])
                if 'coarse_answer' in sample:
                    coarse = {**sample, **sample['coarse_answer']}
                    quality = self.task.quality(entry)
                    coarse_quality = self.task.quality(
                        self.task.judge([coarse])[0]
                    )
            scores, cells = (
                sample.get('exit_scores'),
                sample.get('cell_scores'),
            )
            self.results.append(
                ImageRecord(
                    image=image_key(sample.get('img_path') or ''),
                    exited=float(sample['exited']),
                    confidence=float(sample['exit_confidence']),
                    share=sample.get('refined_share'),
                    num_cells=None if cells is None else len(cells),
                    scores=None if scores is None else scores.cpu().numpy(),
                    objects=objects_in(sample, self.ignore_index),
                    entry=entry,
                    quality=quality,
                    coarse_quality=coarse_quality,
                )
            )

    def compute_metrics(self, results: list[ImageRecord]) -> dict[str, float]:
        """Sum up over the images."""
        exited = np.array([r.exited for r in results])
        confidence = np.array([r.confidence for r in results])
        if self.out_file:
            decisions = [
                dict(
                    image=r.image,
                    exited=r.exited,
                    confidence=r.confidence,
                    share=r.share,
                )
                for r in results
            ]
            mmengine.dump(decisions, self.out_file, indent=2)
        metrics = dict(
            rate=float(exited.mean()), confidence=float(confidence.mean())
        )
        shares = count_shares(results)
        if several := len(shares) > 2:  # the exited ones are one of them
            metrics['mean_share'] = float(np.mean([r.share for r in results]))
        metrics.update(head_scores(results))
        if self.task is not None:
            for name, rows in (
                ('exited', np.flatnonzero(exited == 1)),
                ('refined', np.flatnonzero(exited == 0)),
            ):
                if len(rows):
                    entries = [results[i].entry for i in rows]
                    score = self.task.main_score(entries)
                    if np.isfinite(score):  # there is something to find
                        metrics[name] = score
        if all(r.coarse_quality is not None for r in results) and not any(
            exited
        ):
            loss = np.array([r.quality - r.coarse_quality for r in results])
            metrics['auroc'] = auroc(confidence, loss <= self.tolerance)

        classes = (self.dataset_meta or {}).get('classes')
        by_class = rate_by(
            results, lambda label, _: classes[label] if classes else label
        )
        by_size = rate_by(results, lambda _, area: size_name(area))
        histogram = np.histogram(
            confidence[np.isfinite(confidence)],
            bins=HISTOGRAM_BINS,
            range=(0, 1),
        )[0].tolist()
        logger = MMLogger.get_current_instance()
        logger.info(
            'exits:\n%s',
            statistics_tables(
                histogram, by_class, by_size, shares if several else None
            ),
        )
        if self.statistics_file:
            statistics = dict(
                metrics=metrics,
                histogram=histogram,
                by_class=by_class,
                by_size=by_size,
            )
            if several:
                statistics['shares'] = shares
            mmengine.dump(statistics, self.statistics_file, indent=2)
        return metrics


def size_name(area: float) -> str:
    """COCO's name for an object of so many pixels."""
    return next(name for name, limit in SIZES if area < limit)

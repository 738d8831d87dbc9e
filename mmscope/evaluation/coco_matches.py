"""COCO's average precision of any choice among answers, matched once."""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.fileio import load
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# what COCOeval.accumulate reads of a match
USED = ('dtScores', 'dtMatches', 'dtIgnore', 'gtIgnore')


# What has no public name, and why it is needed all the same: CocoMetric reads
# its ann_file once into ``_coco_api`` and does not keep the file's name, and
# COCOeval.accumulate wants the ``_paramsEval`` of a call of evaluate(), which
# is the very work that is not to be done again.


def ground_truth(metric: BaseMetric) -> COCO | None:
    """The content of a CocoMetric's ``ann_file``, None without one."""
    return metric._coco_api


def forget_ground_truth(metric: BaseMetric) -> None:
    """Let a CocoMetric without ``ann_file`` read its entries' anew."""
    metric._coco_api = metric.cat_ids = None


def as_evaluated(judge: COCOeval) -> COCOeval:
    """Tell an evaluation that its ``evalImgs`` are complete."""
    judge._paramsEval = judge.params
    return judge


class CocoEntry(NamedTuple):
    """CocoMetric's entry of one answer, and how it matches the truth.

    Attributes:
        truth: Image and size, as the metric keeps them.
        found: Boxes, scores, labels and masks, as the metric keeps them.
        matches: What COCOeval found out, by index of the class; classes that
            are neither there nor found are left out.
    """

    truth: dict
    found: dict
    matches: dict[int, dict]


class CocoMatcher:
    """Lets pycocotools match every answer once.

    Matching detections with objects is most of an evaluation and does not
    depend on other images; the average precision of a choice among answers
    then takes COCOeval's accumulation alone.

    Args:
        metric: CocoMetric with ``ann_file``. Masks are matched if it judges
            masks, and else boxes.
    """

    def __init__(self, metric: BaseMetric) -> None:
        self.metric = metric
        self.kind = 'segm' if 'segm' in metric.metrics else 'bbox'

    def match(self, entries: Sequence[tuple[dict, dict]]) -> list[CocoEntry]:
        """Match the metric's entries of some images, each with its truth."""
        images = [image['img_id'] for image, _ in entries]
        judge = self._judge([found for _, found in entries])
        judge.params.imgIds = images
        judge.evaluate()
        # by class, and by image in ascending order
        by_class = np.array(judge.evalImgs, dtype=object).reshape(
            len(judge.params.catIds), -1
        )
        rows = np.searchsorted(np.unique(images), images)
        return [
            CocoEntry(
                *entry,
                {
                    index: {key: match[key] for key in USED}
                    for index, match in enumerate(by_class[:, row])
                    if match is not None
                },
            )
            for entry, row in zip(entries, rows, strict=True)
        ]

    def average_precision(self, entries: Sequence[CocoEntry]) -> float:
        """AP over all thresholds of IoU, as a share.

        Args:
            entries: Entries of :meth:`match`; an image may come repeatedly.

        Returns:
            In [0, 1], or NaN where there is nothing to find.
        """
        judge = self._judge()
        judge.params.imgIds = list(range(len(entries)))
        judge.evalImgs = [
            matches.get(index)
            for index in range(len(judge.params.catIds))
            for *_, matches in entries
        ]
        as_evaluated(judge).accumulate()
        precision = judge.eval['precision']
        known = precision[precision > -1]
        return float(known.mean()) if known.size else math.nan

    def _judge(self, found: list[dict] | None = None) -> COCOeval:
        """An evaluation of these answers, or of none yet."""
        metric = self.metric
        truth = ground_truth(metric)
        if metric.cat_ids is None:
            metric.cat_ids = truth.get_cat_ids(
                cat_names=metric.dataset_meta['classes']
            )
        if found is None:
            judge = COCOeval(iouType=self.kind)
        else:
            judge = COCOeval(truth, self._results(found), self.kind)
        judge.params.catIds = metric.cat_ids
        judge.params.iouThrs = metric.iou_thrs
        # AP is that of all sizes and of up to 100 detections
        judge.params.maxDets = judge.params.maxDets[-1:]
        judge.params.areaRng = judge.params.areaRng[:1]
        judge.params.areaRngLbl = judge.params.areaRngLbl[:1]
        return judge

    def _results(self, found: list[dict]) -> COCO:
        with tempfile.TemporaryDirectory() as folder:
            files = self.metric.results2json(found, str(Path(folder) / 'all'))
            results = load(files[self.kind])
        if not results:
            return COCO()
        return ground_truth(self.metric).loadRes(results)


def with_a_detection(
    entries: Sequence[tuple[dict, dict]],
) -> Sequence[tuple[dict, dict]]:
    """Add a detection without extent to entries that have none at all.

    CocoMetric gives no scores to nothing; this one finds nothing and has
    score 0.
    """
    if any(len(found['scores']) for _, found in entries):
        return entries
    (truth, found), *others = entries
    found = dict(
        found,
        bboxes=np.zeros((1, 4), np.float32),
        scores=np.zeros(1, np.float32),
        labels=np.zeros(1, int),
    )
    if 'masks' in found:
        size = truth['height'], truth['width']
        found['masks'] = [mask.encode(np.zeros(size, np.uint8, order='F'))]
    return [(truth, found), *others]

"""Scores of chosen answers, by the metrics of the tasks."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmdet.evaluation import CocoMetric
from mmdet.structures.mask import encode_mask_results

from mmscope.evaluation.task_metric import TaskMetric

SIZE = 20
BOX = [2.0, 2.0, 12.0, 14.0]  # of the one object, a dog in image 1


@pytest.fixture
def coco(tmp_path: Path) -> TaskMetric:
    """Boxes and masks of two images; there is nothing in the second."""
    x, y, right, bottom = BOX
    truth = dict(
        images=[
            dict(id=i, file_name=f'{i}.jpg', height=SIZE, width=SIZE)
            for i in (1, 2)
        ],
        categories=[dict(id=3, name='cat'), dict(id=5, name='dog')],
        annotations=[
            dict(
                id=1,
                image_id=1,
                category_id=5,
                iscrowd=0,
                bbox=[x, y, right - x, bottom - y],
                area=(right - x) * (bottom - y),
                segmentation=[[x, y, right, y, right, bottom, x, bottom]],
            )
        ],
    )
    path = tmp_path / 'instances.json'
    path.write_text(json.dumps(truth))
    metric = CocoMetric(ann_file=str(path), metric=['bbox', 'segm'])
    metric.dataset_meta = dict(classes=('cat', 'dog'))
    return TaskMetric(metric)


def answer(image: int, boxes: list[list[float]]) -> tuple[dict, dict]:
    """CocoMetric's entry of an image in which these dogs were found."""
    masks = np.zeros((len(boxes), SIZE, SIZE), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[int(top) : int(bottom), int(left) : int(right)] = 1
    found = dict(
        img_id=image,
        bboxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.full(len(boxes), 0.9, np.float32),
        labels=np.ones(len(boxes), int),
        masks=encode_mask_results(masks),
    )
    return dict(img_id=image, width=SIZE, height=SIZE), found


@pytest.mark.parametrize(
    ('image', 'boxes', 'expected'),
    [
        (1, [BOX], 100),
        (1, [[0.0, 0.0, 4.0, 4.0]], 0),
        (1, [], 0),
        (2, [], 100),
    ],
)
def test_quality_of_one_image_of_coco(coco, image, boxes, expected) -> None:
    assert coco.quality(answer(image, boxes)) == pytest.approx(expected)


def test_a_detector_that_finds_nothing_scores_zero(coco) -> None:
    scores = coco.score([answer(1, []), answer(2, [])])
    assert scores['segm_mAP'] == scores['bbox_mAP_50'] == 0
    # beside images where something was found, nothing changes
    scores = coco.score([answer(2, []), answer(1, [BOX])])
    assert scores['segm_mAP'] == pytest.approx(1)

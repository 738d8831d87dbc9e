"""Scores of chosen answers, by the metrics of the tasks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from numpy.random import Generator

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


def answer(image: int, boxes: list[list[float]]) -> dict:
    """An image in which these dogs were found."""
    masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[int(top) : int(bottom), int(left) : int(right)] = 1
    found = dict(
        bboxes=torch.tensor(boxes).view(-1, 4),
        scores=torch.full((len(boxes),), 0.9),
        labels=torch.ones(len(boxes), dtype=torch.long),
        masks=masks,
    )
    return dict(img_id=image, ori_shape=(SIZE, SIZE), pred_instances=found)


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
    (entry,) = coco.judge([answer(image, boxes)])
    assert coco.quality(entry) == pytest.approx(expected)


def test_a_detector_that_finds_nothing_scores_zero(coco) -> None:
    scores = coco.score(coco.judge([answer(1, []), answer(2, [])]))
    assert scores['segm_mAP'] == scores['bbox_mAP_50'] == 0
    # beside images where something was found, nothing changes
    scores = coco.score(coco.judge([answer(2, []), answer(1, [BOX])]))
    assert scores['segm_mAP'] == pytest.approx(1)


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_average_precision_is_that_of_mmdet(real_data, kind) -> None:
    """Of real objects, crowds among them, found here and there."""
    path = real_data / 'coco_mini/annotations/instances_val2017.json'
    metric = CocoMetric(ann_file=str(path), metric=kind)
    truth = metric._coco_api
    names = [category['name'] for category in truth.dataset['categories']]
    metric.dataset_meta = dict(classes=names)
    coco, rng = TaskMetric(metric), np.random.default_rng(0)
    images = rng.permutation(truth.get_img_ids()).tolist()
    answers = [
        coco.judge([guess(truth, image, names, rng) for image in part])
        for part in (images[:9], images[9:10], images[10:])
        for _ in range(2)
    ]
    metric.cat_ids = None  # as in a run that goes on with what it kept
    sure, doubtful = (sum(answers[i::2], []) for i in (0, 1))
    for seed in range(3):
        choose = np.random.default_rng(seed).random(len(sure)) < 0.5
        chosen = [
            one if first else other
            for first, one, other in zip(choose, sure, doubtful, strict=True)
        ]
        ours = coco.main_score(chosen)
        score = 100 * coco.score(chosen)[f'{kind}_mAP']
        assert 5 < score < 95
        assert ours == pytest.approx(score, abs=0.051)  # mmdet rounds


def guess(truth: COCO, image: int, names: list[str], rng: Generator) -> dict:
    """Most of the objects in an image, shifted, a few misnamed."""
    info = truth.load_imgs([image])[0]
    boxes, labels, masks = [], [], []
    for one in truth.load_anns(truth.get_ann_ids(img_ids=[image])):
        if rng.random() < 0.4:
            continue
        dx, dy = rng.integers(-4, 5, 2)
        x, y, width, height = one['bbox']
        boxes.append([x + dx, y + dy, x + width + dx, y + height + dy])
        masks.append(np.roll(truth.annToMask(one), (dy, dx), (0, 1)))
        category = truth.load_cats([one['category_id']])[0]['name']
        wrong = rng.random() < 0.1
        labels.append(rng.integers(80) if wrong else names.index(category))
    size = info['height'], info['width']
    found = dict(
        bboxes=torch.tensor(boxes).view(-1, 4),
        scores=torch.from_numpy(rng.random(len(boxes))),
        labels=torch.tensor(labels, dtype=torch.long),
        masks=torch.from_numpy(np.array(masks, np.uint8).reshape(-1, *size)),
    )
    return dict(img_id=image, ori_shape=size, pred_instances=found)

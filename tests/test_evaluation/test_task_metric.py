"""Scores of chosen answers, by the metrics of the tasks."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric, VOCMetric
from mmengine.evaluator import BaseMetric
from mmseg.evaluation import IoUMetric
from numpy.random import Generator

from mmscope.evaluation.task_metric import (
    MAIN_SCORES,
    MainScore,
    TaskMetric,
    find_task_metric,
)
from mmscope.exits import ExitAnswers, calibrate_eta

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


def test_nothing_to_find_has_no_score(coco) -> None:
    """Not the -1 of pycocotools, which would be -100 points."""
    entries = coco.judge([answer(2, []), answer(2, [BOX])])
    assert math.isnan(coco.main_score(entries))
    assert math.isnan(coco.main_score(entries[:1]))
    assert coco.quality(entries[1]) == 100


def test_coco_without_annotation_file_judges_any_choice() -> None:
    """Its ground truth comes with the images, others with each choice."""
    metric = CocoMetric(metric='bbox')
    metric.dataset_meta = dict(classes=('cat', 'dog'))
    coco = TaskMetric(metric)
    truth = dict(bbox=BOX, bbox_label=1, ignore_flag=0)
    found, missed, other = (
        {**answer(image, boxes), 'instances': [truth]}
        for image, boxes in ((1, [BOX]), (1, [[0.0, 0.0, 4.0, 4.0]]), (2, []))
    )
    nothing = {**answer(3, [BOX]), 'instances': []}
    *entries, empty = coco.judge([found, missed, other, nothing])
    assert coco.main_score(entries[:1]) == pytest.approx(100)
    assert coco.main_score(entries[1:2]) == 0
    assert coco.main_score([entries[0], entries[2]]) == pytest.approx(
        50, abs=1
    )
    assert [coco.quality(one) for one in entries] == [100, 0, 0]
    assert math.isnan(coco.main_score([empty]))
    assert coco.quality(empty) == 100


@pytest.fixture
def voc() -> TaskMetric:
    metric = VOCMetric(metric='mAP')
    metric.dataset_meta = dict(classes=('cat', 'dog'))
    return TaskMetric(metric)


def voc_answer(found: bool, shown: bool = True) -> dict:
    """An image that shows a dog, or none, and the box of one."""
    boxes = torch.tensor([BOX])
    none = dict(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    truth = dict(bboxes=boxes, labels=torch.tensor([1]))
    return dict(
        gt_instances=truth if shown else none,
        ignored_instances=none,
        pred_instances=dict(
            bboxes=boxes if found else boxes + 100,
            scores=torch.tensor([0.9]),
            labels=torch.tensor([1]),
        ),
    )


def test_shares_of_voc_become_points(voc) -> None:
    right, wrong, empty = voc.judge(
        [voc_answer(True), voc_answer(False), voc_answer(True, shown=False)]
    )
    assert voc.score([right])['mAP'] == pytest.approx(1)
    assert voc.main_score([right]) == pytest.approx(100)
    assert voc.quality(right) == pytest.approx(100)
    assert voc.quality(wrong) == 0
    assert voc.quality(empty) == 100
    assert math.isnan(voc.main_score([empty]))


def test_budget_in_points_holds_for_shares(voc) -> None:
    """Half the images lose all: more than 5 points, although .5 is less."""
    fine = voc.judge([voc_answer(True)] * 4)
    coarse = voc.judge([voc_answer(i < 2) for i in range(4)])
    quality = [
        [voc.quality(one) for one in both]
        for both in zip(coarse, fine, strict=True)
    ]
    confidence = np.array([0.9, 0.8, 0.7, 0.6])
    answers = ExitAnswers(
        names=[''] * 4,
        confidence=confidence,
        windows=list(confidence[:, None]),
        entries=list(zip(fine, coarse, strict=True)),
        quality=np.array(quality),
        gflops=np.ones((4, 2)),
        seconds=np.ones((4, 2)),
    )
    assert answers.quality_drop.tolist() == pytest.approx([0, 0, 100, 100])
    found = calibrate_eta(answers, voc, 'max_drop', 5.0, num_resamples=0)
    assert found.expected['exit_rate'] == 0.5
    assert found.expected['drop'] == 0
    (empty,) = voc.judge([voc_answer(True, shown=False)])
    with pytest.raises(ValueError, match='none of the 4 images has anything'):
        calibrate_eta(
            replace(answers, entries=[(empty, empty)] * 4),
            *(voc, 'max_drop', 5.0),
        )


@pytest.mark.parametrize('name', ['mIoU', 'mDice', 'mFscore'])
def test_main_score_is_the_first_that_is_asked_for(name) -> None:
    metric = IoUMetric(iou_metrics=[name])
    metric.dataset_meta = dict(classes=['thing'])
    task = TaskMetric(metric)
    areas = tuple(torch.tensor([float(a)]) for a in (5, 15, 10, 10))
    expected = 100 / 3 if name == 'mIoU' else 50
    assert task.main == name
    assert task.main_score([areas]) == pytest.approx(expected, abs=0.01)


def test_metrics_that_choose_no_eta_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match='format_only=False'):
        TaskMetric(IoUMetric(format_only=True, output_dir=str(tmp_path)))
    with pytest.raises(ValueError, match="'bbox' or 'segm'"):
        TaskMetric(CocoMetric(metric='proposal'))
    with pytest.raises(ValueError, match="metric='mAP'"):
        TaskMetric(VOCMetric(metric='recall'))


class Odd(BaseMetric):
    """A metric that nobody here knows."""

    def process(self, data_batch: dict, data_samples: list) -> None:
        self.results += [0.25] * len(data_samples)

    def compute_metrics(self, results: list) -> dict:
        return dict(odd=float(np.mean(results)))


def test_unknown_metric_says_how_it_becomes_known(monkeypatch) -> None:
    with pytest.raises(ValueError, match='MAIN_SCORES'):
        TaskMetric(Odd())
    with pytest.raises(ValueError, match=r"has \['Odd'\]"):
        find_task_metric([Odd()])
    monkeypatch.setitem(MAIN_SCORES, 'Odd', lambda _: MainScore('odd', 100))
    task = find_task_metric([Odd()])
    assert task.main_score(task.judge([{}])) == 25


def test_task_metric_is_found_beside_others() -> None:
    class Derived(IoUMetric):
        """What a project makes of it."""

    found = find_task_metric([Odd(), Derived()])
    assert type(found.metric) is Derived
    assert found.main == 'mIoU'


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

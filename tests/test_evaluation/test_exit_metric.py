import json
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger

from mmscope.evaluation import ExitMetric
from mmscope.evaluation.exit_statistics import (
    auroc,
    average_precision,
    objects_in,
    statistics_tables,
)
from mmscope.functional import num_selected

CLASSES = ('sky', 'dog', 'cat')
IOU = dict(type='mmseg.IoUMetric', iou_metrics=['mIoU'])


def sample(
    exited: float,
    confidence: float,
    truth: list[list[int]],
    answer: list[list[int]] | None = None,
    scores: list[float] | None = None,
    **more: object,
) -> dict:
    found = dict(
        img_path=f'/data/{confidence}.jpg',
        exited=exited,
        exit_confidence=confidence,
        gt_sem_seg=dict(data=torch.tensor([truth])),
        pred_sem_seg=dict(data=torch.tensor([answer or truth])),
        **more,
    )
    if scores is not None:
        found['exit_scores'] = torch.tensor(scores)
    return found


@pytest.fixture
def evaluate(tmp_path) -> Callable[..., tuple[dict, dict]]:
    """Metrics and the files of some samples."""

    def run(samples: list[dict], **options: object) -> tuple[dict, dict]:
        decisions, statistics = tmp_path / 'exits.json', tmp_path / 'all.json'
        metric = ExitMetric(str(decisions), str(statistics), **options)
        metric.dataset_meta = dict(classes=CLASSES)
        metric.process({}, samples)
        found = metric.evaluate(len(samples))
        written = json.loads(statistics.read_text())
        return found, dict(written, images=json.loads(decisions.read_text()))

    return run


SKY, DOG, BOTH = [[0, 0]], [[1, 1]], [[0, 1]]


def test_rate_confidence_and_histogram(evaluate) -> None:
    found, written = evaluate(
        [sample(1, 0.95, SKY), sample(0, 0.25, DOG), sample(0.5, 0.36, SKY)]
    )
    assert found['exit/rate'] == 0.5
    assert found['exit/confidence'] == pytest.approx(0.52)
    assert written['histogram'] == [0, 0, 1, 1, 0, 0, 0, 0, 0, 1]
    assert [image['image'] for image in written['images']] == [
        '/data/0.95.jpg',
        '/data/0.25.jpg',
        '/data/0.36.jpg',
    ]


def refined(share: float, num_cells: int = 10, **more: object) -> dict:
    """Prediction with that share of its cells refined."""
    scores = torch.rand(num_cells)
    exited = float(share == 0)
    more = dict(refined_share=share, cell_scores=scores, **more)
    return sample(exited, 0.5, SKY, **more)


def test_shares_of_cells(evaluate) -> None:
    samples = [refined(share) for share in (0.2, 0.0, 1.0, 0.2)]
    found, written = evaluate(samples)
    assert found['exit/mean_share'] == pytest.approx(0.35)
    assert written['metrics']['mean_share'] == found['exit/mean_share']
    assert written['shares'] == {'0': 1, '0.2': 2, '1': 1}
    assert [one['share'] for one in written['images']] == [0.2, 0, 1, 0.2]


@pytest.fixture
def log(caplog) -> Iterator[pytest.LogCaptureFixture]:
    """What mmengine's logger, which does not propagate, is told."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_shares_are_logged_where_there_are_several(evaluate, log) -> None:
    evaluate([refined(0.2), refined(0.4), refined(0.0), refined(0.4)])
    table = log.text.split('Refined cells')[1]
    rows = re.findall(r'│ (exited|[\d.]+) +│ (\d+)', table)
    assert rows[:3] == [('exited', '1'), ('0.2', '1'), ('0.4', '2')]
    log.clear()
    evaluate([refined(0.8), refined(0.0)])
    assert 'Confidence' in log.text
    assert 'Refined cells' not in log.text


def test_one_share_of_images_of_several_sizes_is_one(evaluate) -> None:
    """It is rounded up to whole cells."""
    numbers = (2, 7, 24, 300)
    samples = [refined(num_selected(0.3, n) / n, n) for n in numbers]
    found, written = evaluate([*samples, refined(0.0)])
    assert 'exit/mean_share' not in found
    assert 'shares' not in written
    assert written['images'][0]['share'] == 0.5
    # and that of a ladder are as many as it has
    ladder = [
        refined(num_selected(share, n) / n, n)
        for n in (15, 24, 300)
        for share in (0.2, 0.4, 0.6, 1.0)
    ]
    _, written = evaluate(ladder)
    assert list(written['shares'].values()) == [0, 3, 3, 3, 3]


def test_windows_refined_with_one_share_are_no_ladder(evaluate) -> None:
    """An image's share is the mean over its windows."""
    samples = [
        sample(exited, 0.5, SKY, refined_share=0.8 * (1 - exited))
        for exited in (0.0, 1 / 3, 0.5, 2 / 3, 1.0)
    ]
    found, _ = evaluate(samples)
    assert 'exit/mean_share' not in found
    samples[1]['refined_share'] = 0.4
    assert evaluate(samples)[1]['shares'] == {'0': 1, '0.6': 1, '0.8': 3}


def test_predictions_without_shares_have_none(evaluate) -> None:
    found, written = evaluate([sample(0, 0.4, SKY), refined(0.4)])
    assert 'exit/mean_share' not in found
    assert [one['share'] for one in written['images']] == [None, 0.4]


def test_rates_by_class_and_size(evaluate) -> None:
    wide = [[1] * 100] * 100
    _, written = evaluate(
        [sample(1, 0.9, SKY), sample(0, 0.4, BOTH), sample(0, 0.3, wide)]
    )
    assert written['by_class'] == {
        'sky': dict(rate=0.5, count=2),
        'dog': dict(rate=0.0, count=2),
    }
    assert written['by_size'] == {
        'small': dict(rate=pytest.approx(1 / 3), count=3),
        'large': dict(rate=0.0, count=1),
    }


def test_quality_of_the_exit_head(evaluate) -> None:
    found, _ = evaluate(
        [
            sample(1, 0.9, SKY, scores=[0.9, 0.2, 0.1]),
            sample(0, 0.4, BOTH, scores=[0.8, 0.6, 0.7]),
            sample(0, 0.3, DOG, scores=[0.1, 0.3, 0.2]),
        ]
    )
    # sky and dog are ranked rightly; cat is in no image
    assert found['exit/head_mAP'] == pytest.approx(100)
    # hits 0/1: sky, sky, dog of four predicted and four present
    assert found['exit/head_F1'] == pytest.approx(100 * 6 / 8)


def test_task_on_exited_and_refined_images(evaluate) -> None:
    found, _ = evaluate(
        [sample(1, 0.9, SKY, DOG), sample(0, 0.4, DOG)], task=IOU
    )
    assert found['exit/exited'] == 0
    assert found['exit/refined'] == 100


def test_auroc_needs_both_answers(evaluate) -> None:
    def with_coarse(confidence: float, coarse: list) -> dict:
        answer = dict(pred_sem_seg=dict(data=torch.tensor([coarse])))
        return sample(0, confidence, DOG, coarse_answer=answer)

    right = [with_coarse(0.9, DOG), with_coarse(0.2, SKY)]
    assert evaluate(right, task=IOU)[0]['exit/auroc'] == 1
    wrong = [with_coarse(0.1, DOG), with_coarse(0.2, SKY)]
    assert evaluate(wrong, task=IOU)[0]['exit/auroc'] == 0
    alone, _ = evaluate([sample(0, 0.9, DOG)], task=IOU)
    assert 'exit/auroc' not in alone


def test_beside_another_metric_in_an_evaluator() -> None:
    evaluator = Evaluator([IOU, dict(type='mmscope.ExitMetric', task=IOU)])
    evaluator.dataset_meta = dict(classes=CLASSES)

    class Sample(dict):
        def to_dict(self) -> dict:
            return dict(self)

    for metric in evaluator.metrics:
        metric.process({}, [sample(1, 0.9, SKY)])
    found = evaluator.evaluate(1)
    assert found['exit/rate'] == 1
    assert found['mIoU'] == found['exit/exited'] == 100


def test_results_survive_distribution() -> None:
    """Processes exchange results by pickling them."""
    import pickle

    metric = ExitMetric(task=IOU)
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, [sample(1, 0.9, SKY, scores=[0.9, 0.2, 0.1])])
    found = metric.compute_metrics(pickle.loads(pickle.dumps(metric.results)))
    assert found['exited'] == 100


def test_prediction_without_decision_is_refused() -> None:
    with pytest.raises(KeyError, match='mmscope with an exit head'):
        ExitMetric().process({}, [dict(img_path='a.jpg')])


def test_objects_of_a_detection_sample() -> None:
    truth = dict(
        bboxes=torch.tensor([[0.0, 0.0, 10.0, 20.0]]),
        labels=torch.tensor([2]),
    )
    assert objects_in(dict(gt_instances=truth, scale_factor=(0.5, 0.5))) == [
        (2, 800.0)
    ]
    assert objects_in({}) is None
    ignored = dict(gt_sem_seg=dict(data=torch.tensor([[[255, 1, 1]]])))
    assert objects_in(ignored) == [(1, 2.0)]


@pytest.mark.parametrize('void', [3, 254, 255])
def test_the_label_of_no_class_is_free(evaluate, void: int) -> None:
    partly = sample(0, 0.3, [[0, void]], SKY, scores=[0.9, 0.1, 0.1])
    found, written = evaluate([partly], ignore_index=void)
    assert list(written['by_class']) == ['sky']
    assert found['exit/head_F1'] == 100


def test_average_precision_and_auroc_by_hand() -> None:
    score = np.array([0.9, 0.8, 0.7, 0.6])
    positive = np.array([True, False, True, False])
    assert average_precision(score, positive) == pytest.approx((1 + 2 / 3) / 2)
    # pairs: .9 beats both, .7 beats one of two
    assert auroc(score, positive) == 0.75
    assert np.isnan(auroc(score, np.ones(4, dtype=bool)))


def test_names_of_classes_are_printed_as_they_are() -> None:
    rates = {'bag [red]': dict(rate=0.5, count=2)}
    assert 'bag [red]' in statistics_tables([1, 2], rates, {})

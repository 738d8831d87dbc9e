from dataclasses import replace

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from mmscope.evaluation.task_metric import TaskMetric
from mmscope.exits import BudgetError, ExitAnswers, calibrate_eta, replay
from mmscope.exits.calibration import eta_of_count, reachable_counts
from mmscope.functional import should_exit

COUNT = 20


@pytest.fixture
def metric() -> TaskMetric:
    iou = IoUMetric()
    iou.dataset_meta = dict(classes=['thing'])
    return TaskMetric(iou)


@pytest.fixture
def answers() -> ExitAnswers:
    """Twenty images; the surer the coarse answer, the less it lacks."""
    confidence = np.linspace(0.05, 0.95, COUNT)
    agreeing = np.round(confidence * 100)

    def entry(agree: float) -> tuple:
        areas = (agree, 200 - agree, 100, 100)
        return tuple(torch.tensor([float(area)]) for area in areas)

    return ExitAnswers(
        names=[str(i) for i in range(COUNT)],
        confidence=confidence,
        windows=[np.array([value]) for value in confidence],
        entries=[(entry(100), entry(a)) for a in agreeing],
        quality=np.stack(
            [100 * agreeing / (200 - agreeing), np.full(COUNT, 100.0)], axis=1
        ),
        gflops=np.tile((1.0, 5.0), (COUNT, 1)),
        seconds=np.tile((0.1, 0.5), (COUNT, 1)),
    )


def exit_rate(answers: ExitAnswers, eta: float) -> float:
    return float((answers.confidence >= eta).mean())


@pytest.mark.parametrize('rate', [0.0, 0.25, 0.5, 1.0])
def test_exit_rate_is_met(answers, metric, rate) -> None:
    found = calibrate_eta(answers, metric, 'exit_rate', rate)
    assert found.expected['exit_rate'] == rate
    assert found.low <= found.eta <= found.high
    assert found.eta == {0.0: 1.0, 1.0: 0.0}.get(rate, found.eta)


def test_gflops_take_the_fewest_exits_that_suffice(answers, metric) -> None:
    found = calibrate_eta(answers, metric, 'gflops', 3.1)
    # 5 - 4 * rate <= 3.1 from ten exits of twenty on
    assert found.expected['exit_rate'] == 0.5
    assert found.expected['gflops'] == pytest.approx(3.0)


def test_fps_take_the_fewest_exits_that_suffice(answers, metric) -> None:
    found = calibrate_eta(answers, metric, 'fps', 1 / 0.3)
    assert found.expected['exit_rate'] == 0.5
    assert found.expected['fps'] >= 1 / 0.3 - 1e-9


def test_max_drop_takes_the_most_exits_that_it_allows(answers, metric) -> None:
    found = calibrate_eta(answers, metric, 'max_drop', 3.0)
    assert 0 < found.expected['drop'] <= 3.0
    count = round(found.expected['exit_rate'] * COUNT)
    one_more = eta_of_count(answers.confidence, count + 1)
    exited = answers.confidence >= one_more
    assert metric.main_score(answers.chosen(exited)) < 97.0
    none = calibrate_eta(answers, metric, 'max_drop', 0.0)
    assert none.eta == 1.0


def test_bootstrap_is_wider_on_fewer_images(answers, metric) -> None:
    few = answers.rows(np.arange(0, COUNT, 4))
    wide = calibrate_eta(few, metric, 'exit_rate', 0.5)
    narrow = calibrate_eta(
        answers.rows(np.tile(np.arange(COUNT), 20)), metric, 'exit_rate', 0.5
    )
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize(
    ('budget', 'value', 'unit'),
    [('gflops', 0.9, 'GFLOPs per image'), ('fps', 11.0, 'images per second')],
)
def test_budget_out_of_reach_says_what_is_reachable(
    answers, metric, budget, value, unit
) -> None:
    with pytest.raises(BudgetError) as error:
        calibrate_eta(answers, metric, budget, value)
    ends = {'gflops': ('5', '1'), 'fps': ('2', '10')}[budget]
    assert f'{value:.4g} {unit} is out of reach' in str(error.value)
    assert f'{ends[0]} if no image exits' in str(error.value)
    assert f'{ends[1]} if all do' in str(error.value)


def test_bad_budgets_are_named(answers, metric) -> None:
    with pytest.raises(ValueError, match=r"one of .*'fps'.* got 'speed'"):
        calibrate_eta(answers, metric, 'speed', 1)
    with pytest.raises(ValueError, match=r'exit_rate must be in .*got 1.5'):
        calibrate_eta(answers, metric, 'exit_rate', 1.5)
    with pytest.raises(ValueError, match='gflops must not be negative'):
        calibrate_eta(answers, metric, 'gflops', -1)


def test_threshold_lies_between_two_confidences() -> None:
    confidence = np.array([0.2, 0.9, 0.4])
    assert eta_of_count(confidence, 0) == 1.0
    assert eta_of_count(confidence, 1) == pytest.approx(0.65)
    assert eta_of_count(confidence, 3) == 0.0


def test_equal_confidences_exit_together() -> None:
    saturated = np.array([1.0, 1.0, 0.5])
    assert reachable_counts(saturated).tolist() == [0, 2, 3]
    for count in (1, 2):
        eta = eta_of_count(saturated, count)
        assert should_exit(torch.from_numpy(saturated), eta).tolist() == [
            1,
            1,
            0,
        ]
    assert 0 < eta_of_count(np.ones(3), 1) < 1
    assert 0 < eta_of_count(np.array([1, np.nextafter(1, 0)]), 1) < 1
    assert eta_of_count(np.ones(3), 3) == 0


@pytest.mark.parametrize('below', [1, 2, 3])
def test_threshold_tells_neighbours_in_float32_apart(below) -> None:
    """As sigmoids near 1 are: half of two neighbours rounds to either."""
    steps = [np.float32(1)]
    for _ in range(below):
        steps.append(np.nextafter(steps[-1], np.float32(0)))
    confidence = np.array([steps[below - 1], steps[below], 0.5], np.float32)
    eta = eta_of_count(confidence.astype(float), 1)
    assert should_exit(torch.from_numpy(confidence), eta).tolist() == [1, 0, 0]


def test_unusable_confidences_exit_last() -> None:
    confidence = np.array([np.nan, 0.6, np.inf, 0.8])
    assert reachable_counts(confidence).tolist() == [0, 1, 2, 4]
    assert eta_of_count(confidence, 1) == pytest.approx(0.7)
    assert eta_of_count(confidence, 2) == pytest.approx(0.3)
    assert eta_of_count(confidence, 3) == 0


@pytest.mark.parametrize('rate', [0.001, 0.2, 0.5, 0.999])
def test_some_exits_are_neither_none_nor_always(answers, metric, rate) -> None:
    """Most sigmoids are 1 in float32, and some images are unsure."""
    confidence = np.where(np.arange(COUNT) < 15, 1.0, answers.confidence / 2)
    found = calibrate_eta(
        answers.judged_by(confidence), metric, 'exit_rate', rate
    )
    assert 0 < found.eta < 1
    assert found.expected['exit_rate'] >= 0.75
    same = calibrate_eta(
        answers.judged_by(np.ones(COUNT)), metric, 'exit_rate', rate
    )
    assert 0 < same.eta < 1
    assert same.expected['exit_rate'] == 1


def test_ties_cost_what_all_of_them_cost(answers, metric) -> None:
    confidence = np.repeat([0.9, 0.5], COUNT // 2)
    found = calibrate_eta(answers.judged_by(confidence), metric, 'gflops', 4.9)
    assert found.expected['exit_rate'] == 0.5
    surest = answers.judged_by(confidence[::-1])
    # the surer half loses 24 points, all of them 67
    kept = calibrate_eta(surest, metric, 'max_drop', 30.0)
    assert kept.expected['exit_rate'] == 0.5


def test_windows_exit_one_by_one(answers, metric) -> None:
    """Of two windows in each image, the first is sure and the second not."""
    fine, coarse = answers.entries[0]
    halves = replace(
        answers,
        windows=[np.array([0.9, 0.1])] * COUNT,
        entries=[(fine, fine, coarse)] * COUNT,
    )
    found = calibrate_eta(halves, metric, 'exit_rate', 0.5)
    assert found.expected['exit_rate'] == 0.5
    assert found.expected['gflops'] == pytest.approx(3)
    assert found.expected['drop'] == 0
    assert replay(halves, found.eta).tolist() == [0.5] * COUNT
    assert halves.chosen(np.full(COUNT, 0.5))[0] is fine
    kept = calibrate_eta(halves, metric, 'max_drop', 1.0)
    assert kept.expected['exit_rate'] == 0.5

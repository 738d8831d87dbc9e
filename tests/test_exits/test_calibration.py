import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from mmscope.evaluation.task_metric import TaskMetric
from mmscope.exits import BudgetError, ExitAnswers, calibrate_eta
from mmscope.exits.calibration import eta_of_count

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
        coarse=[entry(a) for a in agreeing],
        fine=[entry(100)] * COUNT,
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

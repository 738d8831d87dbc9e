import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mmscope.analysis import (
    ExitAnswers,
    collect_answers,
    exit_auroc,
    oracle_curve,
    random_curve,
    sweep_eta,
)
from mmscope.analysis.exit_sweep import class_areas, mean_iou


def answers_of(confidence: list, coarse: list, fine: list) -> ExitAnswers:
    """Images of one class: agreeing pixels of ten predicted and true."""

    def areas(agreeing: list) -> np.ndarray:
        return np.array([[[a], [10], [10]] for a in agreeing])

    return ExitAnswers(
        [str(i) for i in range(len(confidence))],
        np.array(confidence),
        areas(coarse),
        areas(fine),
    )


@pytest.fixture
def answers() -> ExitAnswers:
    return answers_of([0.9, 0.8, 0.7, 0.6], [10, 9, 5, 0], [10, 9, 9, 9])


def test_areas_and_mean_iou_match_hand_counts() -> None:
    truth = torch.tensor([[0, 0, 1], [1, 2, 255]])
    prediction = torch.tensor([[0, 1, 1], [1, 0, 2]])
    areas = class_areas(prediction, truth, 4, 255)
    assert areas.tolist() == [[1, 2, 0, 0], [2, 3, 0, 0], [2, 2, 1, 0]]
    # class 3 is neither predicted nor true
    assert mean_iou(areas) == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)


def test_sweep_replays_each_threshold(answers) -> None:
    sweep = sweep_eta(answers, [0, 0.65, 0.8, 1])
    assert [r['exit_rate'] for r in sweep] == [1, 0.75, 0.5, 0]
    agreeing = [24, 33, 37, 37]
    expected = [100 * a / (80 - a) for a in agreeing]
    assert [r['mIoU'] for r in sweep] == pytest.approx(expected)


def test_random_lies_between_and_oracle_is_best(answers) -> None:
    rates = [0, 0.5, 1]
    random = random_curve(answers, rates, num_draws=200)
    oracle = oracle_curve(answers, rates)
    sweep = sweep_eta(answers, [1, 0.75, 0])
    for name in ('exit_rate', 'mIoU'):
        for ends in (random, oracle):
            assert ends[0][name] == pytest.approx(sweep[0][name])
            assert ends[2][name] == pytest.approx(sweep[2][name])
    assert random[1]['mIoU'] < sweep[1]['mIoU'] <= oracle[1]['mIoU']


def test_oracle_ranks_by_loss_not_by_confidence() -> None:
    backwards = answers_of([0.9, 0.1], [0, 9], [9, 9])
    (half,) = oracle_curve(backwards, [0.5])
    assert half['mIoU'] == pytest.approx(100 * 18 / (40 - 18))


def test_auroc_is_the_chance_of_the_right_order(answers) -> None:
    assert exit_auroc(answers) == 1
    mixed = answers_of([0.9, 0.8, 0.7, 0.7], [0, 9, 9, 0], [9, 9, 9, 9])
    # pairs (good, bad): .8>.9 no, .8>.7 yes, .7>.9 no, .7=.7 half
    assert exit_auroc(mixed) == pytest.approx(1.5 / 4)
    assert np.isnan(exit_auroc(answers_of([0.9], [9], [9])))


class FakeBackbone:
    """Only what a model without exits has."""

    exit_head = None


def test_model_without_exit_head_is_refused() -> None:
    model = torch.nn.Module()
    model.backbone = FakeBackbone()
    with pytest.raises(ValueError, match='no exit head'):
        collect_answers(model, DataLoader([1]))

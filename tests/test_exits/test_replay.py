import numpy as np
import pytest
import torch
from mmpretrain.evaluation import Accuracy
from mmseg.evaluation import IoUMetric

from mmscope.evaluation.task_metric import TaskMetric
from mmscope.exits import (
    ExitAnswers,
    confidence_curve,
    count_stages,
    exit_auroc,
    oracle_curve,
    random_curve,
    share_of_oracle,
    sweep_eta,
)
from mmscope.exits.replay import auroc_text, share_text
from mmscope.exits.stages import correct_counts, stage_counts


def entry(agreeing: int) -> tuple:
    """What IoUMetric keeps of one image: ten pixels predicted and true."""
    return tuple(
        torch.tensor([float(area)])
        for area in (agreeing, 20 - agreeing, 10, 10)
    )


def answers_of(
    confidence: list, coarse: list, fine: list, gflops: tuple = (1.0, 5.0)
) -> ExitAnswers:
    """Images of one class with so many agreeing pixels of ten."""
    count = len(confidence)
    quality = np.array(
        [
            [100 * c / (20 - c), 100 * f / (20 - f)]
            for c, f in zip(coarse, fine, strict=True)
        ]
    )
    return ExitAnswers(
        names=[str(i) for i in range(count)],
        confidence=np.array(confidence),
        windows=[np.array([value]) for value in confidence],
        entries=[
            (entry(f), entry(c)) for c, f in zip(coarse, fine, strict=True)
        ],
        quality=quality,
        gflops=np.tile(gflops, (count, 1)),
        seconds=np.tile((0.1, 0.4), (count, 1)),
    )


@pytest.fixture
def metric() -> TaskMetric:
    iou = IoUMetric()
    iou.dataset_meta = dict(classes=['thing'])
    return TaskMetric(iou)


@pytest.fixture
def answers() -> ExitAnswers:
    return answers_of([0.9, 0.8, 0.7, 0.6], [10, 9, 5, 0], [10, 9, 9, 9])


def test_sweep_replays_each_threshold(answers, metric) -> None:
    sweep = sweep_eta(answers, metric, [0, 0.65, 0.8, 1])
    assert [r['exit_rate'] for r in sweep] == [1, 0.75, 0.5, 0]
    agreeing = [24, 33, 37, 37]
    expected = [100 * a / (80 - a) for a in agreeing]
    assert [r['mIoU'] for r in sweep] == pytest.approx(expected, abs=0.01)
    assert [r['score'] for r in sweep] == [r['mIoU'] for r in sweep]


def test_sweep_counts_cost_and_time(answers, metric) -> None:
    (half,) = sweep_eta(answers, metric, [0.75])
    assert half['gflops'] == pytest.approx(3)
    assert half['gflops_p95'] == pytest.approx(5)
    assert half['fps'] == pytest.approx(1 / 0.25)


def test_random_lies_between_and_oracle_is_best(answers, metric) -> None:
    rates = [0, 0.5, 1]
    random = random_curve(answers, metric, rates, num_draws=200)
    oracle = oracle_curve(answers, metric, rates)
    own = confidence_curve(answers, metric, rates)
    for ends in (random, oracle):
        for index in (0, 2):
            assert ends[index]['score'] == pytest.approx(own[index]['score'])
    assert random[1]['score'] < own[1]['score'] <= oracle[1]['score']
    assert random[1]['deviation'] > 0
    assert share_of_oracle(own, random, oracle) == pytest.approx(1)
    assert share_of_oracle(random, random, oracle) == 0
    # an oracle that gains less than chance scatters tells nothing
    assert np.isnan(share_of_oracle(own, random, random))


def test_three_seeds_of_random_exits_do_worse(answers, metric) -> None:
    (own,) = confidence_curve(answers, metric, [0.5])
    for seed in range(3):
        (drawn,) = random_curve(answers, metric, [0.5], 40, seed)
        assert drawn['score'] < own['score'] - 1


def test_oracle_ranks_by_loss_not_by_confidence(metric) -> None:
    backwards = answers_of([0.9, 0.1], [0, 9], [9, 9])
    (half,) = oracle_curve(backwards, metric, [0.5])
    assert half['score'] == pytest.approx(100 * 18 / (40 - 18), abs=0.01)


def test_auroc_is_the_chance_of_the_right_order(answers) -> None:
    assert exit_auroc(answers) == 1
    mixed = answers_of([0.9, 0.8, 0.7, 0.7], [0, 9, 9, 0], [9, 9, 9, 9])
    # pairs (good, bad): .8>.9 no, .8>.7 yes, .7>.9 no, .7=.7 half
    assert exit_auroc(mixed) == pytest.approx(1.5 / 4)
    assert np.isnan(exit_auroc(answers_of([0.9], [9], [9])))


def test_undefined_figures_say_why() -> None:
    assert share_text(0.9) == "90% of the oracle's gain over random exits"
    assert share_text(float('nan')).startswith('no gain')
    assert auroc_text(0.7314) == '0.731'
    assert auroc_text(float('nan')).startswith('undefined (all coarse')


def test_auroc_takes_a_loss_within_the_tolerance_as_good() -> None:
    # the first loses 18 points of IoU, the second all 82
    mixed = answers_of([0.9, 0.1], [8, 0], [9, 9])
    assert np.isnan(exit_auroc(mixed, tolerance=5))
    assert exit_auroc(mixed, tolerance=20) == 1


def test_stages_count_right_and_wrong_decisions(answers) -> None:
    # the first two coarse answers are as good, confidence agrees
    none, half, most = stage_counts(answers, [1, 0.75, 0.65])
    assert half['exited_right'] == half['refined_right'] == 2
    assert half['accuracy'] == 1
    assert none['refined_wrong'] == 2
    assert none['accuracy'] == 0.5
    assert most['exited_wrong'] == 1


def test_replay_compares_in_float32_as_the_model_does(metric) -> None:
    """A confidence of 0.9 reaches eta = 0.9, whatever its last digits are."""
    confidence = torch.tensor([0.9]).tolist()
    assert confidence[0] < 0.9
    (record,) = sweep_eta(answers_of(confidence, [9], [9]), metric, [0.9])
    assert record['exit_rate'] == 1


def test_pictures_go_from_sure_to_unsure(answers) -> None:
    shuffled = answers.rows(np.array([2, 0, 3, 1]))
    assert shuffled.from_sure_to_unsure(4) == [1, 3, 0, 2]
    assert shuffled.from_sure_to_unsure(2) == [1, 2]
    assert shuffled.from_sure_to_unsure(9) == [1, 3, 0, 2]


def test_stages_of_a_classifier_count_right_answers() -> None:
    """Figure 8: how many are right by the stage that they end at."""
    metric = TaskMetric(Accuracy(topk=(1,)))

    def judged(label: int) -> dict:
        score = torch.zeros(3)
        score[label] = 1
        return dict(pred_score=score, gt_label=torch.tensor([0]))

    # right at both, at the coarse, at the fine stage, at none
    labels = [(0, 0), (0, 1), (1, 0), (2, 1)]
    entries = [tuple(map(judged, one[::-1])) for one in labels]
    quality = [[metric.quality(e) for e in one[::-1]] for one in entries]
    answers = ExitAnswers(
        names=[f'{n}.png' for n in range(4)],
        confidence=np.array([0.9, 0.8, 0.7, 0.6]),
        windows=[np.array([c]) for c in (0.9, 0.8, 0.7, 0.6)],
        entries=entries,
        quality=np.array(quality),
        gflops=np.ones((4, 2)),
        seconds=np.ones((4, 2)),
    )
    names = ('coarse_right', 'coarse_wrong', 'fine_right', 'fine_wrong')
    counts = [
        tuple(record[name] for name in names)
        for record in correct_counts(answers, [0, 0.65, 0.75, 1])
    ]
    assert counts == [(2, 2, 0, 0), (2, 1, 0, 1), (2, 0, 1, 1), (0, 0, 2, 2)]
    (both,) = count_stages(answers, metric, [0.75])
    assert both['coarse_right'] == both['exited_right'] == 2
    assert both['accuracy'] == 0.75

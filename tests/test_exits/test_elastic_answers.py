"""Every share of cells, replayed for pairs of thresholds, and calibrated."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from exit_images import Images, load
from mmseg.evaluation import IoUMetric
from torch import Tensor

from mmscope.evaluation.task_metric import TaskMetric
from mmscope.exits import (
    AnswerCache,
    BudgetError,
    ElasticAnswers,
    ElasticImage,
    calibrate_elastic,
    collect_elastic,
    count_share_gflops,
    frontier,
    is_elastic,
    sweep_elastic,
)
from mmscope.exits.elastic import candidate_etas, candidate_taus
from mmscope.models import CellScore, exit_settings
from mmscope.models.evidence import Evidence
from mmscope.utils.flops import model_flops

SHARES = (0.2, 0.5, 1.0)


@pytest.fixture
def elastic(make_segmentor):
    model = make_segmentor(
        backbone__alpha=SHARES,
        backbone__cell_score=dict(type='mmscope.CellContrast'),
        backbone__exit_policy=dict(type='mmscope.PixelConfidence'),
    )
    model.backbone.exit_head.fc.weight.data *= 50
    return model


@pytest.mark.parametrize('batch_size', [1, 8])
def test_replay_equals_real_inference(
    elastic, metric, data, batch_size
) -> None:
    """Metric, rate and shares of a real run are those of the replay."""
    loader = load(data, batch_size)
    answers = collect_elastic(elastic, loader, metric)
    scores = np.concatenate([one.cell_scores for one in answers.images])
    eta = float(np.quantile(answers.confidence, 0.7))
    tau = float(np.quantile(scores, 0.6))
    (replayed,) = sweep_elastic(answers, metric, [eta], [tau])
    samples = []
    with torch.no_grad(), exit_settings(elastic, eta=eta, tau=tau):
        for batch in loader:
            samples += elastic.test_step(batch)
    rungs = answers.rungs(eta, tau)
    found = [one.refined_share for one in samples]
    nums = [0, 2, 3, 6]  # of six cells
    assert found == pytest.approx([nums[rung] / 6 for rung in rungs])
    assert len(set(rungs)) > 2
    assert replayed['mean_share'] == pytest.approx(np.mean(found))
    assert replayed['exit_rate'] == np.mean([one.exited for one in samples])
    real = metric.main_score(metric.entries(samples))
    assert real == pytest.approx(replayed['score'], abs=0.01)


class Unknown(CellScore):
    """Scores of which one is no number."""

    def forward(self, evidence: Evidence) -> Tensor:
        scores = torch.zeros_like(evidence.coarse.importance)
        scores[:, 2] = math.nan
        return scores


def test_scores_that_are_no_numbers_are_kept(elastic, metric, data) -> None:
    elastic.backbone.cell_score = Unknown()
    answers = collect_elastic(elastic, load(data), metric)
    rungs = answers.rungs(1.0, 0.5)
    samples = []
    with torch.no_grad(), exit_settings(elastic, eta=1.0, tau=0.5):
        for batch in load(data):
            samples += elastic.test_step(batch)
    assert [one.exited for one in samples] == (rungs == 0).tolist()
    assert not any(one.exited for one in samples)


def test_answers_are_kept_by_image(elastic, metric, data, tmp_path) -> None:
    cache = AnswerCache(tmp_path, ElasticImage)
    first = collect_elastic(elastic, load(data[:3]), metric)
    kept = Images(data[:3])
    collect_elastic(elastic, load(kept), metric, cache)
    elastic.decode_head = None  # nothing is run again
    again = collect_elastic(elastic, load(kept), metric, cache)
    for one, other in zip(first.images, again.images, strict=True):
        assert np.array_equal(one.cell_scores, other.cell_scores)
        assert one.confidence == other.confidence


def test_slide_inference_is_refused(make_segmentor, metric, data) -> None:
    model = make_segmentor(
        backbone__alpha=SHARES,
        test_cfg=dict(mode='slide', crop_size=(64, 96), stride=(32, 48)),
    )
    with pytest.raises(ValueError, match='test_cfg.mode=whole'):
        collect_elastic(model, load(data), metric)


def test_which_models_are_elastic(make_segmentor) -> None:
    assert is_elastic(make_segmentor(backbone__alpha=SHARES))
    assert is_elastic(make_segmentor(backbone__tau=0.5))
    assert not is_elastic(make_segmentor())


def test_gflops_are_those_of_each_share(elastic) -> None:
    counted = count_share_gflops(elastic)((64, 96))
    flops = model_flops(elastic, (64, 96))
    assert counted[0] == flops.exited.total() / 1e9
    for share, value in zip(SHARES, counted[1:], strict=True):
        with exit_settings(elastic, alpha=share):
            alone = model_flops(elastic, (64, 96)).refined
        assert value == alone.total() / 1e9
    assert list(counted) == sorted(counted)


# ------------------------------------------------ made-up answers ----


def entry(agree: float) -> tuple:
    areas = (agree, 200 - agree, 100, 100)
    return tuple(torch.tensor([float(area)]) for area in areas)


@pytest.fixture
def thing() -> TaskMetric:
    iou = IoUMetric()
    iou.dataset_meta = dict(classes=['thing'])
    return TaskMetric(iou)


@pytest.fixture
def answers() -> ElasticAnswers:
    """Ten images of ten cells; image i has i cells that are worth it."""
    images = []
    for worth in range(10):
        scores = np.zeros(10, np.float32)
        scores[:worth] = np.linspace(0.9, 0.6, worth)
        gained = [min(share * 10, worth) for share in (0, *SHARES)]
        images.append(
            ElasticImage(
                name=str(worth),
                confidence=0.95 - worth / 20,
                num_cells=10,
                cell_scores=scores,
                shares=SHARES,
                entries=tuple(entry(90 - worth + got) for got in gained),
                quality=(0.0,) * 4,
                gflops=(1.0, 2.0, 3.5, 6.0),
                seconds=(0.1, 0.2, 0.35, 0.6),
            )
        )
    return ElasticAnswers(images)


def test_rungs_cover_what_is_worth_it(answers) -> None:
    rungs = answers.rungs(1.0, 0.5)
    assert rungs.tolist() == [0, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert answers.rungs(1.0, None).tolist() == [3] * 10
    assert answers.rungs(0.0, 0.5).tolist() == [0] * 10
    # confidence reaches 0.8 in the first four
    assert answers.rungs(0.8, 0.5).tolist() == [0] * 4 + [2] * 2 + [3] * 4
    assert answers.rungs(1.0, 0.95).tolist() == [0] * 10


def test_scores_are_compared_in_float32(answers) -> None:
    tau = float(np.float32(0.1))
    one = replace(answers.images[0], cell_scores=np.array([0.1], np.float32))
    assert ElasticAnswers([one]).rungs(1.0, tau).tolist() == [0]
    assert ElasticAnswers([one]).rungs(1.0, tau - 1e-7).tolist() == [1]


def test_scores_that_are_not_finite_are_worth_it(answers) -> None:
    scores = np.array([math.nan, 0.1], np.float32)
    one = replace(answers.images[0], cell_scores=scores)
    assert ElasticAnswers([one]).rungs(1.0, 0.5).tolist() == [1]


def test_thresholds_where_no_score_is_finite(answers, thing) -> None:
    scores = np.full(3, math.nan, np.float32)
    images = [
        replace(one, confidence=math.nan, cell_scores=scores)
        for one in answers.images
    ]
    answers = ElasticAnswers(images)
    assert candidate_taus(answers) == [None]
    assert candidate_etas(answers) == [0.0, 1.0]
    found = calibrate_elastic(answers, thing, 'max_drop', 0.0)
    assert found.tau is None


def test_a_pair_is_told_once(answers, thing) -> None:
    records = sweep_elastic(answers, thing, [1.0, 0.0, 0.5, 0.0], [None, None])
    assert [(r['eta'], r['tau']) for r in records] == [
        (0.0, None),
        (0.5, None),
        (1.0, None),
    ]


def test_summary_is_of_the_chosen_answers(answers, thing) -> None:
    found = answers.summarize(answers.rungs(1.0, 0.5), thing)
    assert found['exit_rate'] == 0.1
    assert found['mean_share'] == pytest.approx(
        np.mean([0, 0.2, 0.2, 0.5, 0.5, 0.5, 1, 1, 1, 1])
    )
    assert found['gflops'] == pytest.approx(
        np.mean([1, 2, 2, 3.5, 3.5, 3.5, 6, 6, 6, 6])
    )
    # everything that is worth it was refined
    whole = answers.summarize(answers.rungs(1.0, None), thing)
    assert found['score'] == whole['score']
    assert found['fps'] > whole['fps']


def test_frontier_holds_what_no_other_beats() -> None:
    points = [(1, 10), (2, 9), (2, 12), (3, 12), (4, 15), (2.5, 11)]
    records = [dict(gflops=x, score=y) for x, y in points]
    kept = [(r['gflops'], r['score']) for r in frontier(records)]
    assert kept == [(1, 10), (2, 12), (4, 15)]


def test_no_drop_is_had_for_less_than_all_cells(answers, thing) -> None:
    found = calibrate_elastic(answers, thing, 'max_drop', 0.0)
    assert found.expected['drop'] == 0
    assert found.expected['gflops'] == pytest.approx(3.95)
    assert found.tau is not None
    assert answers.rungs(found.eta, found.tau).tolist() == [
        *(0, 1, 1, 2, 2, 2, 3, 3, 3, 3)
    ]


@pytest.mark.parametrize('limit', [1.0, 2.5, 3.95, 6.0])
def test_gflops_give_the_best_score_that_they_allow(
    answers, thing, limit
) -> None:
    found = calibrate_elastic(answers, thing, 'gflops', limit)
    assert found.expected['gflops'] <= limit + 1e-9
    by_exits = [
        answers.summarize(answers.rungs(eta, None), thing)
        for eta in np.linspace(0, 1, 60)
    ]
    best = max(r['score'] for r in by_exits if r['gflops'] <= limit)
    assert found.expected['score'] >= best


def test_fps_are_met(answers, thing) -> None:
    found = calibrate_elastic(answers, thing, 'fps', 4.0)
    assert found.expected['fps'] >= 4
    assert found.expected['fps'] <= 4 / 0.85


@pytest.mark.parametrize('rate', [0.1, 0.5, 1.0])
def test_exit_rate_is_met_by_eta_beside_tau(answers, thing, rate) -> None:
    found = calibrate_elastic(answers, thing, 'exit_rate', rate, tau=0.5)
    assert found.tau == 0.5
    assert found.expected['exit_rate'] == rate


@pytest.mark.parametrize(
    ('budget', 'value', 'message'),
    [
        ('gflops', 0.5, 'budget of 0.5 GFLOPs per image is out of reach'),
        ('fps', 100, 'budget of 100 images per second is out of reach'),
    ],
)
def test_budgets_out_of_reach(answers, thing, budget, value, message) -> None:
    with pytest.raises(BudgetError, match=message):
        calibrate_elastic(answers, thing, budget, value)


def test_rate_below_what_tau_lets_exit(answers, thing) -> None:
    with pytest.raises(BudgetError, match='no cell has a score above tau'):
        calibrate_elastic(answers, thing, 'exit_rate', 0.0, tau=0.65)


def test_uncounted_gflops_are_no_budget(answers, thing) -> None:
    images = [replace(one, gflops=(math.nan,) * 4) for one in answers.images]
    with pytest.raises(ValueError, match='without their GFLOPs'):
        calibrate_elastic(ElasticAnswers(images), thing, 'gflops', 3.0)

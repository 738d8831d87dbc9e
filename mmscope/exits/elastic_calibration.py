"""Choosing eta and tau for a budget."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mmscope.evaluation.task_metric import TaskMetric

from .calibration import BudgetError, check_budget, eta_of_count
from .elastic import ElasticAnswers, candidate_etas, candidate_taus
from .replay import Record

# budgets are used up to this share, if that can be
USED = 0.85


@dataclass(frozen=True)
class ElasticCalibration:
    """A pair of thresholds that meets a budget.

    Attributes:
        eta: Threshold of the confidence.
        tau: Threshold of the cells' scores, or None.
        expected: Figures of the images that it was fitted on, see
            :meth:`ElasticAnswers.summarize`, and 'drop', the score lost
            against the largest share everywhere.
    """

    eta: float
    tau: float | None
    expected: Record


@dataclass(frozen=True)
class _Pair:
    """Two thresholds, what they decide, and what that costs."""

    eta: float
    tau: float | None
    rungs: np.ndarray
    costs: Record


def calibrate_elastic(
    answers: ElasticAnswers,
    metric: TaskMetric,
    budget: str,
    value: float,
    tau: float | None = None,
) -> ElasticCalibration:
    """Find the pair of thresholds that meets a budget on these images.

    Of the pairs that cost no more than 'gflops' or 'fps' allow, that with
    the best score is taken, and for 'max_drop' the cheapest whose score is
    good enough. 'exit_rate' is met by eta alone, beside the given tau.

    Args:
        answers: Answers to images that were not trained on, if possible.
        metric: Metric of the task.
        budget: Name of the budget, as for :func:`calibrate_eta`.
        value: Amount of the budget.
        tau: The model's own threshold of the cells' scores.

    Raises:
        ValueError: ``budget`` or ``value`` is not allowed, there is no score
            to lose, or the answers were collected without their GFLOPs.
        BudgetError: the budget cannot be met.
    """
    check_budget(budget, value)
    if budget in ('gflops', 'max_drop') and np.isnan(answers.gflops).any():
        raise ValueError('the answers were collected without their GFLOPs')
    best = metric.main_score(answers.chosen(answers.rungs(1.0, None)))
    if budget == 'max_drop' and np.isnan(best):
        raise ValueError(
            f'none of the {len(answers)} images has anything to find, so that '
            'there is no score to lose; calibrate on others, or by exit_rate'
        )
    if budget == 'exit_rate':
        found = _fit_rate(answers, value, tau)
    else:
        pairs = sorted(_pairs(answers), key=lambda one: one.costs['gflops'])
        if budget == 'max_drop':
            found = next(
                one
                for one in pairs
                if metric.main_score(answers.chosen(one.rungs)) >= best - value
            )
        else:
            fitting = _fitting(pairs, budget, value)
            found = max(
                fitting,
                key=lambda one: metric.main_score(answers.chosen(one.rungs)),
            )
    expected = answers.summarize(found.rungs, metric)
    drop = best - expected['score']
    return ElasticCalibration(found.eta, found.tau, dict(expected, drop=drop))


def _pairs(answers: ElasticAnswers) -> Iterator[_Pair]:
    """Pairs of thresholds, one for each way to decide."""
    seen = set()
    for tau in candidate_taus(answers):
        for eta in candidate_etas(answers):
            rungs = answers.rungs(eta, tau)
            if rungs.tobytes() not in seen:
                seen.add(rungs.tobytes())
                yield _Pair(eta, tau, rungs, answers.costs(rungs))


def _fitting(pairs: list[_Pair], budget: str, value: float) -> list[_Pair]:
    """The pairs that meet a cost, those that use it up if there are any."""

    def used(pair: _Pair) -> float:
        if budget == 'fps':
            return value / pair.costs['fps']
        return pair.costs['gflops'] / value if value else np.inf

    # a limit that equals what is reachable is met, whatever rounding says
    fitting = [one for one in pairs if used(one) <= 1 + 1e-9]
    if not fitting:
        ends = (pairs[0].costs[budget], pairs[-1].costs[budget])
        unit = dict(gflops='GFLOPs per image', fps='images per second')[budget]
        raise BudgetError(
            f'a budget of {value:.4g} {unit} is out of reach: it is '
            f'{ends[1]:.4g} with the largest share everywhere and '
            f'{ends[0]:.4g} if all images exit; relax the budget, use a '
            "smaller model or image, or exit_resolution='coarse'"
        )
    return [one for one in fitting if used(one) >= USED] or fitting


def _fit_rate(
    answers: ElasticAnswers, rate: float, tau: float | None
) -> _Pair:
    """The eta at which nearest to this share of images exits."""
    confidence = answers.confidence
    counts = range(len(answers) + 1)
    etas = sorted({eta_of_count(confidence, count) for count in counts})
    rungs = [answers.rungs(eta, tau) for eta in etas]
    misses = [abs((one == 0).mean() - rate) for one in rungs]
    nearest = int(np.argmin(misses))
    least = float((rungs[-1] == 0).mean())
    if least > rate + 0.5 / len(answers):
        raise BudgetError(
            f'an exit rate of {rate:.3g} is out of reach: of {least:.3g} of '
            f'the images no cell has a score above tau={tau:.4g}; lower tau '
            'with --cfg-options model.backbone.tau=...'
        )
    found = rungs[nearest]
    return _Pair(etas[nearest], tau, found, answers.costs(found))

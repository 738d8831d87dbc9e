"""Choosing eta for a budget."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmscope.evaluation.task_metric import TaskMetric

from .answers import ExitAnswers
from .replay import replay, summarize

BUDGETS = ('exit_rate', 'gflops', 'fps', 'max_drop')
MAX_CANDIDATES = 64


@dataclass(frozen=True)
class Calibration:
    """A threshold and how sure it is.

    Attributes:
        eta: The threshold.
        low: 5th percentile of eta over resampled images.
        high: 95th percentile.
        expected: What the images that it was fitted on give, see
            :func:`summarize`, and 'drop', the score lost against eta = 1.
    """

    eta: float
    low: float
    high: float
    expected: dict[str, float]


class BudgetError(ValueError):
    """No threshold meets the budget."""


def calibrate_eta(
    answers: ExitAnswers,
    metric: TaskMetric,
    budget: str,
    value: float,
    num_resamples: int = 200,
    seed: int = 0,
) -> Calibration:
    """Find the threshold that meets a budget on these images.

    Of the thresholds that meet it, the one with the best score is taken:
    the fewest exits for 'gflops' and 'fps', the most exits for 'max_drop'.

    Args:
        answers: Both answers to images that were not trained on, if
            possible.
        metric: Judge of the answers; only 'max_drop' asks it.
        budget: 'exit_rate' (a share), 'gflops' (mean per image, at most),
            'fps' (predicted, at least) or 'max_drop' (points of the score
            lost against eta = 1, at most).
        value: Of the budget.
        num_resamples: Draws with replacement that show how stable eta is.
        seed: Of the draws.

    Raises:
        ValueError: ``budget`` or ``value`` is none that is allowed.
        BudgetError: the budget cannot be met.
    """
    fit = _fits(metric)[_check_budget(budget, value)]
    eta = fit(answers, value)
    rng = np.random.default_rng(seed)
    etas = []
    for _ in range(num_resamples):
        sample = answers.rows(rng.integers(len(answers), size=len(answers)))
        try:
            etas.append(fit(sample, value))
        except BudgetError:
            etas.append(0.0)  # what comes nearest to the budget
    low, high = np.quantile(etas, [0.05, 0.95]) if etas else (eta, eta)
    expected = summarize(answers, metric, replay(answers, eta))
    best = metric.main_score(answers.fine)
    return Calibration(
        eta,
        float(low),
        float(high),
        dict(expected, drop=best - expected['score']),
    )


def _check_budget(budget: str, value: float) -> str:
    if budget not in BUDGETS:
        raise ValueError(f'budget must be one of {BUDGETS}, got {budget!r}')
    if budget == 'exit_rate' and not 0 <= value <= 1:
        raise ValueError(f'exit_rate must be in [0, 1], got {value}')
    if value < 0 or not np.isfinite(value):
        raise ValueError(f'{budget} must not be negative, got {value}')
    return budget


def _fits(
    metric: TaskMetric,
) -> dict[str, Callable[[ExitAnswers, float], float]]:
    return dict(
        exit_rate=_fit_rate,
        gflops=_fit_gflops,
        fps=_fit_fps,
        max_drop=lambda answers, value: _fit_drop(answers, value, metric),
    )


def eta_of_count(confidence: np.ndarray, count: int) -> float:
    """The threshold at which ``count`` images exit, ties together.

    It lies halfway between two confidences, so that rounding of a
    confidence does not change a decision.

    Args:
        confidence: (N,).
        count: 0 gives eta = 1, N gives eta = 0.
    """
    if count <= 0:
        return 1.0
    if count >= len(confidence):
        return 0.0
    ordered = np.sort(confidence)[::-1]
    return float((ordered[count - 1] + ordered[count]) / 2)


def _fit_rate(answers: ExitAnswers, rate: float) -> float:
    return eta_of_count(answers.confidence, round(rate * len(answers)))


def _fit_gflops(answers: ExitAnswers, value: float) -> float:
    cost = answers.gflops
    if np.isnan(cost).any():
        raise ValueError('the answers were collected without their GFLOPs')
    return _fit_mean(answers, cost, value, 'GFLOPs per image', lambda x: x)


def _fit_fps(answers: ExitAnswers, value: float) -> float:
    # medians: a pause of the machine is no property of an image
    seconds = np.broadcast_to(
        np.median(answers.seconds, axis=0), (len(answers), 2)
    )
    limit = 1 / value if value > 0 else np.inf
    return _fit_mean(
        answers, seconds, limit, 'images per second', lambda x: 1 / x
    )


def _fit_mean(
    answers: ExitAnswers,
    cost: np.ndarray,
    limit: float,
    unit: str,
    shown: Callable[[float], float],
) -> float:
    """Exit the fewest images that keep the mean cost within a limit."""
    order = np.argsort(-answers.confidence, kind='stable')
    saved = np.cumsum((cost[:, 1] - cost[:, 0])[order])
    means = (cost[:, 1].sum() - np.append(0, saved)) / len(answers)
    # a limit that equals what is reachable is met, whatever rounding says
    fits = np.flatnonzero(means <= limit * (1 + 1e-9))
    if not len(fits):
        raise BudgetError(
            f'a budget of {shown(limit):.4g} {unit} is out of reach: it is '
            f'{shown(means[0]):.4g} if no image exits and '
            f'{shown(means[-1]):.4g} if all do; relax the budget, use a '
            "smaller model or image, or exit_resolution='coarse'"
        )
    return eta_of_count(answers.confidence, int(fits[0]))


def _fit_drop(answers: ExitAnswers, value: float, metric: TaskMetric) -> float:
    """Exit the most images before the score first drops by more."""
    total = len(answers)
    steps = min(total, MAX_CANDIDATES)
    floor = metric.main_score(answers.fine) - value
    best = 0
    for count in np.linspace(0, total, steps + 1).round().astype(int):
        eta = eta_of_count(answers.confidence, int(count))
        chosen = answers.chosen(replay(answers, eta))
        if metric.main_score(chosen) < floor:
            break
        best = int(count)
    return eta_of_count(answers.confidence, best)

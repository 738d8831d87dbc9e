"""Choosing eta for a budget."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmscope.datasets.subset import spread
from mmscope.evaluation.task_metric import TaskMetric

from .answers import ExitAnswers
from .replay import replay, summarize

BUDGETS = ('exit_rate', 'gflops', 'fps', 'max_drop')
MAX_CANDIDATES = 64


@dataclass(frozen=True)
class Calibration:
    """A threshold and how sure it is.

    Attributes:
        eta: Threshold that meets the budget.
        low: 5th percentile of eta over resampled images.
        high: 95th percentile of eta over resampled images.
        expected: Figures of the images that it was fitted on, see
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
    Images of equal confidence exit together: an exit rate is met as nearly
    as they allow, and only a rate of 0 gives eta = 1, and of 1 eta = 0.

    Args:
        answers: Both answers to images that were not trained on, if
            possible.
        metric: Metric of the task; only 'max_drop' asks it.
        budget: Name of the budget: 'exit_rate' (a share), 'gflops' (mean per
            image, at most), 'fps' (predicted, at least) or 'max_drop'
            (points of the score lost against eta = 1, at most).
        value: Amount of the budget.
        num_resamples: Number of draws with replacement that show how stable
            eta is.
        seed: Seed of the draws.

    Raises:
        ValueError: ``budget`` or ``value`` is not allowed, or there is no
            score to lose.
        BudgetError: the budget cannot be met.
    """
    fit = _fits(metric)[check_budget(budget, value)]
    best = metric.main_score(answers.fine)
    if budget == 'max_drop' and np.isnan(best):
        raise ValueError(
            f'none of the {len(answers)} images has anything to find, so that '
            'there is no score to lose; calibrate on others, or by exit_rate'
        )
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
    return Calibration(
        eta,
        float(low),
        float(high),
        dict(expected, drop=best - expected['score']),
    )


def check_budget(budget: str, value: float) -> str:
    """Refuse unknown budgets and amounts that nothing meets.

    Args:
        budget: Name of the budget.
        value: Amount of the budget.

    Returns:
        The name.

    Raises:
        ValueError: it is none of ``BUDGETS``, or the amount is negative, not
            finite, or no share.
    """
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
    """The threshold at which ``count`` answers exit, and their ties.

    It lies halfway between two confidences, so that rounding of a
    confidence does not change a decision. Where float32, in which models
    compare, has no value between them, it is the upper one, but below 1,
    which never exits.

    Args:
        confidence: Confidences, (N,); one that is not finite exits at eta = 0
            alone.
        count: Number of answers; 0 gives eta = 1, N gives eta = 0.
    """
    if count <= 0:
        return 1.0
    if count >= len(confidence):
        return 0.0
    ordered = _descending(confidence)
    last = float(ordered[count - 1])
    if last == -np.inf:
        return 0.0
    below = ordered[ordered < last]
    next_one = max(float(below[0]), 0.0) if len(below) else 0.0
    middle = (last + next_one) / 2
    if next_one < float(np.float32(middle)) <= last and middle < 1:
        return middle
    return min(last, float(np.nextafter(1, 0)))


def reachable_counts(confidence: np.ndarray) -> np.ndarray:
    """How many answers can exit, 0 to N, if equal ones exit together.

    Args:
        confidence: Confidences, (N,).
    """
    ordered = _descending(confidence)
    changes = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    return np.array([0, *changes, len(ordered)])


def _descending(confidence: np.ndarray) -> np.ndarray:
    """Sort confidences, those that are not finite last, as -inf."""
    finite = np.where(np.isfinite(confidence), confidence, -np.inf)
    return np.sort(finite)[::-1]


class _Ladder:
    """The windows of all images in the order in which they exit.

    Attributes:
        confidence: Confidence of each of M windows, (M,).
        counts: Numbers of windows that can exit, ascending, see
            :func:`reachable_counts`.
    """

    def __init__(self, answers: ExitAnswers) -> None:
        self.confidence = np.concatenate(answers.windows)
        self.counts = reachable_counts(self.confidence)
        sizes = [len(windows) for windows in answers.windows]
        owner = np.repeat(np.arange(len(answers)), sizes)
        finite = np.isfinite(self.confidence)
        order = np.argsort(
            -np.where(finite, self.confidence, -np.inf), kind='stable'
        )
        self._image = owner[order]
        self._share = 1 / np.array(sizes)[self._image]

    def totals(self, per_image: np.ndarray) -> np.ndarray:
        """Sum a value over what has exited at each of ``counts``.

        Args:
            per_image: Value of each image, (N,); its windows share it.
        """
        parts = per_image[self._image] * self._share
        return np.append(0, np.cumsum(parts))[self.counts]

    def eta(self, count: int) -> float:
        return eta_of_count(self.confidence, int(count))


def _fit_rate(answers: ExitAnswers, rate: float) -> float:
    if rate in (0, 1):
        return 1.0 - rate
    ladder = _Ladder(answers)
    exited = ladder.totals(np.ones(len(answers)))
    miss = np.abs(exited - rate * len(answers))
    # some exit; of two that miss by as much, the later exits more
    best = len(miss) - 1 - int(np.argmin(miss[:0:-1]))
    # and some do not, or other images never would
    return ladder.eta(max(1, min(ladder.counts[best], ladder.counts[-1] - 1)))


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
    ladder = _Ladder(answers)
    saved = ladder.totals(cost[:, 1] - cost[:, 0])
    means = (cost[:, 1].sum() - saved) / len(answers)
    # a limit that equals what is reachable is met, whatever rounding says
    fits = np.flatnonzero(means <= limit * (1 + 1e-9))
    if not len(fits):
        raise BudgetError(
            f'a budget of {shown(limit):.4g} {unit} is out of reach: it is '
            f'{shown(means[0]):.4g} if no image exits and '
            f'{shown(means[-1]):.4g} if all do; relax the budget, use a '
            "smaller model or image, or exit_resolution='coarse'"
        )
    return ladder.eta(ladder.counts[fits[0]])


def _fit_drop(answers: ExitAnswers, value: float, metric: TaskMetric) -> float:
    """Exit the most images before the score first drops by more."""
    ladder = _Ladder(answers)
    floor = metric.main_score(answers.fine) - value
    best = 1.0
    for index in spread(len(ladder.counts), MAX_CANDIDATES + 1):
        eta = ladder.eta(ladder.counts[index])
        if metric.main_score(answers.chosen(replay(answers, eta))) < floor:
            break
        best = eta
    return best

"""What every threshold eta gives, replayed from both answers."""

from collections.abc import Sequence

import numpy as np
import torch

from mmscope.evaluation.exit_statistics import auroc
from mmscope.evaluation.task_metric import TaskMetric
from mmscope.functional import should_exit

from .answers import ExitAnswers

Record = dict[str, float]

# an image's quality in points that a coarse answer "as good" may lack
TOLERANCE = 5.0


def replay(answers: ExitAnswers, eta: float) -> np.ndarray:
    """Decide at a threshold as the backbone does.

    Returns:
        Share of each image's windows that exit, (N,): 0 or 1 where images
        are decided about as a whole.
    """
    # in float32, as the model compares
    confidence = torch.from_numpy(np.concatenate(answers.windows)).float()
    sizes = np.array([len(windows) for windows in answers.windows])
    starts = np.append(0, np.cumsum(sizes)[:-1])
    exited = should_exit(confidence, eta).numpy().astype(float)
    return np.add.reduceat(exited, starts) / sizes


def summarize(
    answers: ExitAnswers, metric: TaskMetric, exited: np.ndarray
) -> Record:
    """What it gives if these images exit.

    Args:
        answers: Both answers to N images.
        metric: Metric of the task.
        exited: Share of each image's windows that exit, (N,).

    Returns:
        'exit_rate', 'score' (the metric's main one in percent), 'gflops' and
        'gflops_p95' per image, 'fps' as predicted from the medians of the
        times, and the metric's own scores.
    """
    rate = float(exited.mean())
    coarse, fine = answers.gflops.T
    cost = fine + exited * (coarse - fine)
    fast, slow = np.median(answers.seconds, axis=0)
    chosen = answers.chosen(exited)
    return dict(
        exit_rate=rate,
        score=metric.main_score(chosen),
        gflops=float(cost.mean()),
        gflops_p95=float(np.quantile(cost, 0.95)),
        fps=float(1 / (rate * fast + (1 - rate) * slow)),
        **metric.score(chosen),
    )


def sweep_eta(
    answers: ExitAnswers, metric: TaskMetric, etas: Sequence[float]
) -> list[Record]:
    """Replay the exit decision at each threshold.

    Returns:
        'eta' and what :func:`summarize` gives, for each of ``etas``.
    """
    return [
        dict(
            eta=float(eta), **summarize(answers, metric, replay(answers, eta))
        )
        for eta in etas
    ]


def random_curve(
    answers: ExitAnswers,
    metric: TaskMetric,
    rates: Sequence[float],
    num_draws: int = 20,
    seed: int = 0,
) -> list[Record]:
    """What exits at random give: the least that confidence must beat.

    Args:
        answers: Both answers.
        metric: Metric of the task.
        rates: Shares of images that exit.
        num_draws: Number of draws to average over.
        seed: Seed of the draws.

    Returns:
        'exit_rate', 'score' and its 'deviation' over draws, for each rate.
    """
    rng = np.random.default_rng(seed)
    records = []
    for count in _counts(rates, len(answers)):
        scores = [
            metric.main_score(
                answers.chosen(rng.permutation(len(answers)) < count)
            )
            for _ in range(num_draws)
        ]
        records.append(
            dict(
                exit_rate=count / len(answers),
                score=float(np.mean(scores)),
                deviation=float(np.std(scores)),
            )
        )
    return records


def oracle_curve(
    answers: ExitAnswers, metric: TaskMetric, rates: Sequence[float]
) -> list[Record]:
    """What exits of the images that lose least give.

    Greedy by each image's own drop of quality: close to the best, which
    would need a search over subsets.

    Returns:
        'exit_rate' and 'score' for each rate.
    """
    return confidence_curve(
        answers.judged_by(-answers.quality_drop), metric, rates
    )


def confidence_curve(
    answers: ExitAnswers, metric: TaskMetric, rates: Sequence[float]
) -> list[Record]:
    """What exits of the images with most confidence give.

    Returns:
        'exit_rate' and 'score' for each rate.
    """
    ranks = np.empty(len(answers), dtype=int)
    order = np.argsort(-answers.confidence, kind='stable')
    ranks[order] = np.arange(len(answers))
    return [
        dict(
            exit_rate=count / len(answers),
            score=metric.main_score(answers.chosen(ranks < count)),
        )
        for count in _counts(rates, len(answers))
    ]


def share_of_oracle(
    curve: Sequence[Record], random: Sequence[Record], oracle: Sequence[Record]
) -> float:
    """How much of the oracle's gain over chance a policy reaches.

    Args:
        curve: Scores of the policy, at the same rates as the others.
        random: Scores of chance.
        oracle: Scores of the oracle.

    Returns:
        Ratio of the areas above chance: 0 is chance, 1 the oracle, NaN where
        the oracle gains no more than chance scatters.
    """
    mean = [
        np.mean([record['score'] for record in records])
        for records in (curve, random, oracle)
    ]
    gain = mean[2] - mean[1]
    scatter = np.mean([record['deviation'] for record in random])
    return float((mean[0] - mean[1]) / gain) if gain > scatter else np.nan


def exit_auroc(answers: ExitAnswers, tolerance: float = TOLERANCE) -> float:
    """How well confidence tells where the coarse answer is as good.

    Args:
        answers: Both answers.
        tolerance: Quality, in points, that a good coarse answer may lack.

    Returns:
        Area under the ROC curve: the chance that an image whose coarse
        answer is as good as the fine one has more confidence than one whose
        is not; NaN where there are none of either.
    """
    return auroc(answers.confidence, answers.quality_drop <= tolerance)


def auroc_text(value: float) -> str:
    """Write an AUROC, or why there is none."""
    if np.isnan(value):
        return 'undefined (all coarse answers are as good, or none is)'
    return f'{value:.3f}'


def share_text(value: float) -> str:
    """Write a :func:`share_of_oracle`, or why there is none."""
    if np.isnan(value):
        return 'no gain of the oracle to compare with'
    return f"{value:.0%} of the oracle's gain over random exits"


def _counts(rates: Sequence[float], total: int) -> list[int]:
    return [round(rate * total) for rate in rates]

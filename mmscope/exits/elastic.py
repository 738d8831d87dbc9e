"""Answers with every share of cells refined, and what eta and tau choose."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mmscope.evaluation.task_metric import Entry, TaskMetric
from mmscope.functional import num_selected, should_exit

from .replay import Record

NUM_ETAS, NUM_TAUS = 24, 40  # thresholds that are tried of each


@dataclass(frozen=True)
class ElasticImage:
    """The answers to one image with every share of its cells refined.

    Attributes:
        name: File of the image.
        confidence: Confidence of the coarse answer by the model's policy.
        num_cells: Number of coarse cells, padding included.
        cell_scores: Scores of the cells that show some of the image, highest
            first, float32.
        shares: Shares of cells that can be refined, ascending, (R,).
        entries: What the metric keeps of the coarse answer and of that at
            each share, (1 + R,).
        quality: Quality of each, see :meth:`TaskMetric.quality`.
        gflops: GFLOPs of each; NaN where not counted.
        seconds: Seconds of each, the coarse pass included.
    """

    name: str
    confidence: float
    num_cells: int
    cell_scores: np.ndarray
    shares: tuple[float, ...]
    entries: tuple[Entry, ...]
    quality: tuple[float, ...]
    gflops: tuple[float, ...]
    seconds: tuple[float, ...]

    def refined_share(self, rung: int) -> float:
        """Share of cells refined at a rung, rounded up to whole cells."""
        share = self.shares[rung - 1] if rung else 0
        return num_selected(share, self.num_cells) / self.num_cells


@dataclass(frozen=True)
class ElasticAnswers:
    """The answers to N images with every share of their cells refined.

    Attributes:
        images: Answers to each, N; all have the same shares.
    """

    images: Sequence[ElasticImage]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of cells that can be refined, ascending, (R,)."""
        return self.images[0].shares

    @property
    def confidence(self) -> np.ndarray:
        """Confidence of the coarse answers, (N,)."""
        return np.array([one.confidence for one in self.images])

    @property
    def gflops(self) -> np.ndarray:
        """GFLOPs of the coarse answer and of each share, (N, 1 + R)."""
        return np.array([one.gflops for one in self.images])

    @property
    def seconds(self) -> np.ndarray:
        """Seconds of the coarse answer and of each share, (N, 1 + R)."""
        return np.array([one.seconds for one in self.images])

    def rungs(self, eta: float, tau: float | None) -> np.ndarray:
        """Decide as the backbone does.

        Args:
            eta: Threshold of the confidence.
            tau: Threshold of the cells' scores, or None.

        Returns:
            0 for an image that exits, else the number of its share, counted
            from 1, (N,).
        """
        # in float32, as the model compares
        confidence = torch.from_numpy(self.confidence).float()
        refined = ~should_exit(confidence, eta).numpy()
        if tau is None:
            return np.where(refined, len(self.shares), 0)
        return np.where(refined, [_rung(one, tau) for one in self.images], 0)

    def chosen(self, rungs: np.ndarray) -> list[Entry]:
        """The answers at these rungs, N."""
        return [
            one.entries[rung]
            for one, rung in zip(self.images, rungs, strict=True)
        ]

    def summarize(self, rungs: np.ndarray, metric: TaskMetric) -> Record:
        """What it gives if images are answered at these rungs.

        Args:
            rungs: Rung of each image, (N,).
            metric: Metric of the task.

        Returns:
            'exit_rate', 'mean_share' of cells, 'score' (the metric's main
            one in points), and what :meth:`costs` gives.
        """
        shares = [
            one.refined_share(rung)
            for one, rung in zip(self.images, rungs, strict=True)
        ]
        return dict(
            exit_rate=float((rungs == 0).mean()),
            mean_share=float(np.mean(shares)),
            score=metric.main_score(self.chosen(rungs)),
            **self.costs(rungs),
        )

    def costs(self, rungs: np.ndarray) -> Record:
        """What it costs if images are answered at these rungs.

        Returns:
            'gflops' and 'gflops_p95' per image, and 'fps' as predicted from
            the medians of the times.
        """
        gflops = self.gflops[np.arange(len(self)), rungs]
        seconds = np.median(self.seconds, axis=0)[rungs]
        return dict(
            gflops=float(gflops.mean()),
            gflops_p95=float(np.quantile(gflops, 0.95)),
            fps=float(1 / seconds.mean()),
        )


def _rung(image: ElasticImage, tau: float) -> int:
    """The smallest share that covers the cells above tau, counted from 1."""
    # one that is not finite is no reason to exit
    wanted = int((~(image.cell_scores <= np.float32(tau))).sum())
    if not wanted:
        return 0
    nums = [num_selected(share, image.num_cells) for share in image.shares]
    return 1 + min(int(np.searchsorted(nums, wanted)), len(nums) - 1)


def sweep_elastic(
    answers: ElasticAnswers,
    metric: TaskMetric,
    etas: Sequence[float],
    taus: Sequence[float | None],
) -> list[Record]:
    """Replay every pair of thresholds.

    Pairs that decide alike are scored once.

    Args:
        answers: Answers of N images.
        metric: Metric of the task.
        etas: Thresholds of the confidence.
        taus: Thresholds of the cells' scores; None refines the largest share.

    Returns:
        'eta', 'tau' and what :meth:`ElasticAnswers.summarize` gives, once
        for each pair.
    """
    known: dict[bytes, Record] = {}
    records = []
    for tau in dict.fromkeys(taus):
        for eta in sorted(set(etas)):
            rungs = answers.rungs(eta, tau)
            key = rungs.tobytes()
            if key not in known:
                known[key] = answers.summarize(rungs, metric)
            records.append(dict(eta=eta, tau=tau, **known[key]))
    return records


def candidate_etas(answers: ElasticAnswers) -> list[float]:
    """Thresholds that split the confidences evenly, both ends among them."""
    inside = _even(answers.confidence, NUM_ETAS)
    return [0.0, *(eta for eta in inside if 0 < eta < 1), 1.0]


def candidate_taus(answers: ElasticAnswers) -> list[float | None]:
    """Thresholds that split the cells' scores evenly, and none."""
    scores = np.concatenate([one.cell_scores for one in answers.images])
    return [None, *_even(scores, NUM_TAUS)]


def _even(values: np.ndarray, number: int) -> list[float]:
    """Thresholds that split values evenly; those not finite do not count."""
    values = values[np.isfinite(values)]
    if not len(values):
        return []
    inner = np.quantile(values, np.linspace(0.02, 0.98, number))
    return sorted({float(value) for value in inner})


def frontier(records: Sequence[Record]) -> list[Record]:
    """The records that no other beats in both score and cost.

    Args:
        records: Records with 'score' and 'gflops'.

    Returns:
        Some of the records, by ascending cost.
    """
    best, kept = -np.inf, []
    for record in sorted(records, key=lambda r: (r['gflops'], -r['score'])):
        if record['score'] > best:
            best = record['score']
            kept.append(record)
    return kept

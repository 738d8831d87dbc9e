"""A whole sweep over eta: thresholds, policies, files and tables."""

import csv
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mmengine
import numpy as np
from rich.progress import track
from rich.table import Table

from mmscope.datasets.subset import spread
from mmscope.evaluation.task_metric import TaskMetric

from .answers import ExitAnswers
from .collect import OWN_POLICY
from .elastic import frontier
from .replay import (
    TOLERANCE,
    Record,
    auroc_text,
    confidence_curve,
    exit_auroc,
    oracle_curve,
    random_curve,
    share_of_oracle,
    share_text,
    sweep_eta,
)
from .stages import count_stages

RATES = tuple(np.linspace(0, 1, 21))
SWEEP_COLUMNS = dict(
    eta='eta',
    exit_rate='exit rate',
    score='score',
    gflops='GFLOPs',
    gflops_p95='GFLOPs p95',
    fps='FPS predicted',
    fps_measured='FPS measured',
)
ELASTIC_COLUMNS = dict(
    eta='eta',
    tau='tau',
    exit_rate='exit rate',
    mean_share='mean share',
    score='score',
    gflops='GFLOPs',
    gflops_p95='GFLOPs p95',
    fps='FPS predicted',
)


@dataclass(frozen=True)
class SweepReport:
    """What the thresholds and the exit policies of a model give.

    Attributes:
        sweep: Records of :func:`sweep_eta`, by eta.
        curves: Scores over the exit rate of 'oracle', 'random', and each
            policy beside the model's own.
        stages: Records of :func:`count_stages`, by eta.
        quality: Figures 'auroc' and 'share_of_oracle' of each policy, the
            model's own by the name 'model'.
    """

    sweep: list[Record]
    curves: dict[str, list[Record]]
    stages: list[Record]
    quality: dict[str, Record]

    def write(self, folder: Path) -> None:
        """Write sweep.json and sweep.csv."""
        folder.mkdir(parents=True, exist_ok=True)
        mmengine.dump(asdict(self), folder / 'sweep.json', indent=2)
        write_csv(self.sweep, folder / 'sweep.csv')


def report_sweep(
    by_policy: Mapping[str, ExitAnswers],
    metric: TaskMetric,
    etas: Collection[float],
    tolerance: float = TOLERANCE,
    num_draws: int = 20,
) -> SweepReport:
    """Replay thresholds and compare policies.

    Args:
        by_policy: Answers of :func:`collect_answers`.
        metric: Metric of the task.
        etas: Thresholds.
        tolerance: Points that a coarse answer "as good" may lack.
        num_draws: Number of random exits to average over.
    """
    answers = by_policy[OWN_POLICY]
    curves: dict[str, list[Record]] = {
        name: [] for name in ('oracle', 'random', *by_policy)
    }
    for rate in track(RATES, 'Curves'):
        at = metric, [rate]
        curves['oracle'] += oracle_curve(answers, *at)
        curves['random'] += random_curve(answers, *at, num_draws)
        for name, judged in by_policy.items():
            curves[name] += confidence_curve(judged, *at)
    quality = {
        name: dict(
            auroc=exit_auroc(judged, tolerance),
            share_of_oracle=share_of_oracle(
                curves[name], curves['random'], curves['oracle']
            ),
        )
        for name, judged in by_policy.items()
    }
    # the sweep itself is the curve of the model's own
    del curves[OWN_POLICY]
    sweep = [
        record
        for eta in track(sorted(etas), 'Thresholds')
        for record in sweep_eta(answers, metric, [eta])
    ]
    return SweepReport(
        sweep,
        curves,
        count_stages(answers, metric, sorted(etas), tolerance),
        quality,
    )


def sweep_table(
    sweep: Sequence[Mapping[str, float]], score: str = ''
) -> Table:
    """Table of :func:`mmscope.exits.sweep_eta`.

    Args:
        sweep: Records, one for each eta.
        score: Name of the metric's main score.
    """
    columns = {
        key: title
        for key, title in SWEEP_COLUMNS.items()
        if any(math.isfinite(r.get(key, math.nan)) for r in sweep)
    }
    titles = dict(columns, score=score or 'score')
    table = Table(*(titles[key] for key in columns))
    for record in sweep:
        table.add_row(
            *(f'{record[key]:.4g}' if key in record else '' for key in columns)
        )
    return table


def elastic_table(
    records: Sequence[Record], score: str = '', rows: int = 16
) -> Table:
    """Table of the pairs of thresholds that no other pair beats.

    Args:
        records: Records of :func:`mmscope.exits.frontier`.
        score: Name of the metric's main score.
        rows: Rows at most, spread evenly over them.
    """
    columns = [
        key
        for key in ELASTIC_COLUMNS
        if any(np.isfinite(r[key] or 0) for r in records)
    ]
    titles = dict(ELASTIC_COLUMNS, score=score or 'score')
    table = Table(*(titles[key] for key in columns))
    for index in spread(len(records), rows):
        values = (records[index][key] for key in columns)
        table.add_row(*('-' if v is None else f'{v:.4g}' for v in values))
    return table


def write_elastic(records: Sequence[Record], folder: Path) -> None:
    """Write what pairs of thresholds give, elastic.json and elastic.csv.

    Args:
        records: Records of :func:`mmscope.exits.sweep_elastic`.
        folder: Folder of the files.
    """
    best = frontier(records)
    content = dict(records=list(records), frontier=best)
    mmengine.dump(content, folder / 'elastic.json', indent=2)
    write_csv(best, folder / 'elastic.csv')


def quality_text(quality: Mapping[str, Record], tolerance: float) -> str:
    """Say how well each policy decides, one line for each.

    Args:
        quality: Figures of :class:`SweepReport`.
        tolerance: Points that a coarse answer "as good" may lack.
    """
    return '\n'.join(
        f'{name}: AUROC of "the coarse answer is as good as the fine one '
        f'(within {tolerance:g} points)" {auroc_text(values["auroc"])}; '
        f'{share_text(values["share_of_oracle"])}'
        for name, values in quality.items()
    )


def write_csv(
    records: Sequence[Mapping[str, float]], path: str | Path
) -> None:
    """Write records, one line each; columns are all their keys."""
    columns = list(dict.fromkeys(key for r in records for key in r))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', newline='') as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(records)

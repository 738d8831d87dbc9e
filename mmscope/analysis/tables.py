"""Tables of measurements, for the terminal and for spreadsheets."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

SWEEP_COLUMNS = dict(
    eta='eta',
    exit_rate='exit rate',
    score='score',
    gflops='GFLOPs',
    gflops_p95='GFLOPs p95',
    fps='FPS predicted',
    fps_measured='FPS measured',
)


def sweep_table(
    sweep: Sequence[Mapping[str, float]], score: str = ''
) -> Table:
    """Table of :func:`mmscope.analysis.sweep_eta`.

    Args:
        sweep: Its records.
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

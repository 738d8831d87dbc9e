"""Speed and memory over the resolution, as the paper's Figure 6."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from mmscope.visualization.figure import save_figure

from .cases import FpsRecord
from .report import SCOPE_NAMES, describe_exits


def plot_fps(
    records: Sequence[FpsRecord], device: str, path: str | Path
) -> None:
    """Plot log10 FPS and peak memory over the resolution.

    One line for each model and eta (or forced share of exits), one column
    for each scope.

    Args:
        records: Of :func:`mmscope.benchmark.run.bench_fps`.
        device: Where they were measured, written above.
        path: Picture to write.

    Raises:
        ValueError: nothing was measured.
    """
    measured = [record for record in records if record.time is not None]
    if not measured:
        raise ValueError('there is nothing to plot: nothing was measured')
    scopes = [
        scope
        for scope in SCOPE_NAMES
        if any(record.case.scope == scope for record in measured)
    ]
    figure, axes = plt.subplots(
        2, len(scopes), figsize=(5 * len(scopes), 7.5), squeeze=False
    )
    styles = {
        label: f'C{number % 10}' + ('o-', 's--', '^:')[number // 10 % 3]
        for number, label in enumerate(_lines(measured))
    }
    for column, scope in zip(axes.T, scopes, strict=True):
        lines = _lines([r for r in measured if r.case.scope == scope])
        for label, points in lines.items():
            for axis, name in zip(
                column, ('log10_fps', 'memory'), strict=True
            ):
                _draw(axis, points, name, styles[label], label)
        column[0].set_title(SCOPE_NAMES[scope])
        column[0].set_ylabel('log10 FPS')
        column[1].set_ylabel('peak memory (MiB)')
        column[1].set_xlabel('resolution (pixels)')
        for axis in column:
            axis.grid(alpha=0.3)
    legend = {
        label: line
        for axis in axes[0]
        for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        legend.values(),
        legend.keys(),
        loc='upper center',
        bbox_to_anchor=(0.5, 0),
        ncol=len(scopes) + 1,
        fontsize=8,
    )
    case = measured[0].case
    figure.suptitle(f'{device}, {case.dtype}')
    save_figure(figure, path)


def _lines(records: Sequence[FpsRecord]) -> dict[str, list[FpsRecord]]:
    """Records that belong to one line, by what stands in the legend."""
    batches = {record.case.batch_size for record in records}
    lines = defaultdict(list)
    for record in records:
        case = record.case
        label = case.model
        if record.exit_rate is not None:
            label += f', {describe_exits(case)}'
        if len(batches) > 1:
            label += f', batch {case.batch_size}'
        lines[label].append(record)
    return lines


def _draw(
    axis: plt.Axes,
    records: Sequence[FpsRecord],
    name: str,
    style: str,
    label: str,
) -> None:
    points = sorted(
        (math.sqrt(math.prod(r.case.size)), getattr(r, name))
        for r in records
        if getattr(r, name) is not None
    )
    if points:
        axis.plot(*zip(*points, strict=True), style, label=label, markersize=4)

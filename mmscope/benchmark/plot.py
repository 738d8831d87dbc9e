"""Speed and memory over the resolution, as the paper's Figure 6."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from mmscope.visualization.figure import save_figure

from .cases import FpsRecord, describe_exits
from .report import SCOPE_NAMES

PANELS = dict(log10_fps='log10 FPS', memory='peak memory (MiB)')


def plot_fps(
    records: Sequence[FpsRecord], device: str, path: str | Path
) -> None:
    """Plot log10 FPS, and peak memory if measured, over the resolution.

    One line for each model and eta (or forced share of exits or of cells),
    one column for each scope.

    Args:
        records: Records of :func:`mmscope.benchmark.run.bench_fps`.
        device: Name of the device, written above.
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
    lines = _lines(measured)
    panels = {
        name: label
        for name, label in PANELS.items()
        if any(getattr(record, name) is not None for record in measured)
    }
    figure, axes = plt.subplots(
        *(len(panels), len(scopes)),
        figsize=(5 * len(scopes), 3.75 * len(panels)),
        squeeze=False,
    )
    styles = {
        label: f'C{number % 10}' + ('o-', 's--', '^:')[number // 10 % 3]
        for number, label in enumerate(lines)
    }
    for column, scope in zip(axes.T, scopes, strict=True):
        for axis, name in zip(column, panels, strict=True):
            for label, points in lines.items():
                shown = [r for r in points if r.case.scope == scope]
                _draw(axis, shown, name, styles[label], label)
            axis.set_ylabel(panels[name])
            axis.grid(alpha=0.3)
        column[0].set_title(SCOPE_NAMES[scope])
        column[-1].set_xlabel('resolution (pixels)')
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
    """Records that belong to one line, by what stands in the legend.

    Cases that are the same work at every resolution are one line.
    """
    batches = Counter(
        (r.case.model, r.case.scope, describe_exits(r.case), r.case.size)
        for r in records
    )
    several = max(batches.values()) > 1
    lines = defaultdict(list)
    for record in records:
        case = record.case
        batch = case.batch_size if several else None
        lines[case.model, describe_exits(case), batch].append(record)
    labels = defaultdict(list)
    for (model, how, batch), line in lines.items():
        speeds = tuple(record.fps for record in line)
        labels[model, batch, speeds].append((how, line))
    named = {}
    for (model, batch, _), equal in labels.items():
        label = model
        if equal[0][1][0].exit_rate is not None:
            label += f', {" = ".join(how for how, _ in equal)}'
        label += '' if batch is None else f', batch {batch}'
        named[label] = equal[0][1]
    return named


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

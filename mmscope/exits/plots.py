"""Plots of what early exit gives and costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from mmscope.visualization.figure import save_figure

from .elastic import frontier

Record = Mapping[str, float]


def plot_sweep(
    sweep: Sequence[Record],
    curves: Mapping[str, Sequence[Record]],
    path: str | Path,
    score: str = 'mIoU',
) -> None:
    """Plot the score over the exit rate and, where counted, over GFLOPs.

    Args:
        sweep: Records of :func:`mmscope.exits.sweep_eta`; its ends are the
            points "always exit" and "never exit".
        curves: Records with 'exit_rate' and 'score' of other decisions, by
            name: chance, the oracle, other policies.
        path: Picture to write.
        score: Name of the score.
    """
    counted = np.isfinite([record['gflops'] for record in sweep]).all()
    figure, axes = plt.subplots(
        1, 2 if counted else 1, figsize=(11 if counted else 6.4, 4.4)
    )
    first = axes[0] if counted else axes
    for name, records in curves.items():
        ordered = sorted(records, key=lambda r: r['exit_rate'])
        rates = np.array([100 * r['exit_rate'] for r in ordered])
        scores = np.array([r['score'] for r in ordered])
        style = CURVE_STYLES.get(name, OTHER_STYLES[len(first.lines) % 4])
        first.plot(rates, scores, style, label=name, linewidth=1.3)
        if 'deviation' in ordered[0]:
            deviation = np.array([r['deviation'] for r in ordered])
            first.fill_between(
                rates,
                scores - deviation,
                scores + deviation,
                color='C7',
                alpha=0.2,
            )
    _draw_sweep(first, sweep, 'exit_rate', 100)
    first.set_xlabel('images that exit early (%)')
    first.set_ylabel(f'{score} (%)')
    first.legend()
    if counted:
        _draw_sweep(axes[1], sweep, 'gflops', 1)
        axes[1].set_xlabel('GFLOPs per image (mean)')
    for axis in figure.axes:
        axis.grid(alpha=0.3)
    save_figure(figure, path)


def plot_elastic(
    records: Sequence[Record], path: str | Path, score: str = 'mIoU'
) -> None:
    """Plot the score over GFLOPs: by eta and tau together, and by each.

    Args:
        records: Records of :func:`mmscope.exits.sweep_elastic`.
        path: Picture to write.
        score: Name of the score.
    """
    figure, axis = plt.subplots(figsize=(6.8, 4.6))
    for label, style, chosen in (
        ('eta alone: exit, or the largest share', 'C7v:', 'tau'),
        ('tau alone: the cells that need it', 'C1s--', 'eta'),
        ('eta and tau', 'C0o-', ''),
    ):
        kept = [
            r
            for r in records
            if not chosen or r[chosen] == dict(tau=None, eta=1.0)[chosen]
        ]
        best = frontier(kept)
        axis.plot(
            [r['gflops'] for r in best],
            [r['score'] for r in best],
            style,
            label=label,
            markersize=3.5,
        )
    axis.set_xlabel('GFLOPs per image (mean)')
    axis.set_ylabel(f'{score} (%)')
    axis.grid(alpha=0.3)
    axis.legend()
    save_figure(figure, path)


def plot_cells(
    records: Sequence[Record], path: str | Path, score: str = 'mIoU'
) -> None:
    """Plot the score over GFLOPs for each score of cells.

    Args:
        records: Records of :func:`mmscope.exits.cells.compare_cells`.
        path: Picture to write.
        score: Name of the metric's score.
    """
    figure, axis = plt.subplots(figsize=(6.8, 4.6))
    coarse, *others = records
    axis.plot(coarse['gflops'], coarse['score'], 'C3v', label='all exit')
    for number, name in enumerate(dict.fromkeys(r['cells'] for r in others)):
        own = [r for r in others if r['cells'] == name]
        style = CELL_STYLES.get(name, f'C{number}o-')
        axis.plot(
            [r['gflops'] for r in own],
            [r['score'] for r in own],
            style,
            label=name,
            markersize=4,
        )
    axis.set_xlabel('GFLOPs per image (mean)')
    axis.set_ylabel(f'{score} (%)')
    axis.grid(alpha=0.3)
    axis.legend(title='cells by')
    save_figure(figure, path)


CELL_STYLES = {
    'importance': 'C0o-',
    'unimportance': 'C0x:',
    'chance': 'C7s:',
    'oracle': 'C2^--',
}
CURVE_STYLES = {'random': 'C7:', 'oracle': 'C2--'}
OTHER_STYLES = ('C1-', 'C4-', 'C5-', 'C6-')


def _draw_sweep(
    axis: plt.Axes, sweep: Sequence[Record], x: str, factor: float
) -> None:
    """Draw the points of the thresholds, with the two ends marked."""
    ordered = sorted(sweep, key=lambda r: r['exit_rate'])
    xs = [factor * r[x] for r in ordered]
    ys = [r['score'] for r in ordered]
    axis.plot(xs, ys, 'C0o-', markersize=4, label='this model, by eta')
    for index, marker, label in (
        (0, '^', 'never exit'),
        (-1, 'v', 'always exit'),
    ):
        axis.plot(xs[index], ys[index], f'C3{marker}', label=label, zorder=3)
    last = None
    for record, at, score in zip(ordered, xs, ys, strict=True):
        if last is None or record['exit_rate'] - last > 0.08:
            last = record['exit_rate']
            axis.annotate(
                f'{record["eta"]:.2g}',
                (at, score),
                textcoords='offset points',
                xytext=(3, 5),
                fontsize=8,
            )


def plot_stages(
    stages: Sequence[Record], sweep: Sequence[Record], path: str | Path
) -> None:
    """Draw how many images end at each stage, right and wrong (Figure 8).

    Args:
        stages: Records of :func:`mmscope.exits.count_stages`.
        sweep: Records of :func:`mmscope.exits.sweep_eta` at the same
            thresholds.
        path: Picture to write.
    """
    figure, axis = plt.subplots(figsize=(0.55 * len(stages) + 3, 4.4))
    places = np.arange(len(stages))
    base = np.zeros(len(stages))
    kinds = CLASS_STAGES if CLASS_STAGES[0][0] in stages[0] else STAGES
    for key, label, colour in kinds:
        heights = np.array([record[key] for record in stages])
        axis.bar(places, heights, bottom=base, color=colour, label=label)
        base += heights
    axis.set_xticks(
        places, [f'{r["eta"]:.3g}' for r in stages], rotation=45, fontsize=8
    )
    axis.set_xlabel('eta')
    axis.set_ylabel('images')
    score = axis.twinx()
    score.plot(places, [r['score'] for r in sweep], 'k.-', label='score')
    score.set_ylabel('score (%)')
    figure.legend(loc='upper center', ncols=3, fontsize=8)
    save_figure(figure, path, top=0.86)


CLASS_STAGES = (
    ('coarse_right', 'coarse, right', '#2a7f62'),
    ('coarse_wrong', 'coarse, wrong', '#9fd3be'),
    ('fine_wrong', 'fine, wrong', '#c9d5ef'),
    ('fine_right', 'fine, right', '#3b5ba5'),
)
STAGES = (
    ('exited_right', 'coarse, as good as fine', '#2a7f62'),
    ('exited_wrong', 'coarse, worse than fine', '#9fd3be'),
    ('refined_wrong', 'fine, coarse had sufficed', '#c9d5ef'),
    ('refined_right', 'fine, needed', '#3b5ba5'),
)

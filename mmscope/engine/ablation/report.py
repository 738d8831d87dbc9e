"""What the rows of an ablation gave, beside the paper's figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import mmengine
from rich.table import Table

from .rows import AblationRun, RowResult
from .settings import dataset_title
from .tables import PaperTable

MISSING = 'not yet measured'
COSTS = (
    '* GFLOPs: the fine pass as the papers count it (one scan direction, no '
    'norms), and both passes with all that runs'
)


def remarks(run: AblationRun, table: PaperTable) -> list[str]:
    """Say what the figures are of, and where the experiment differs.

    Args:
        run: Settings of the run.
        table: The paper's table.
    """
    lines, ours = [COSTS], dataset_title(run.dataset)
    if ours != table.dataset:
        lines.append(f'dataset differs: paper {table.dataset}, here {ours}')
    if not table.stated:
        lines.append(
            'the paper names no data set for this table; the level of its '
            f'figures is that of {table.dataset}'
        )
    cfg = run.config(table, table.rows[0].name)
    epochs = cfg.train_cfg.max_epochs
    lines.append(f"epochs: {epochs}, the paper's recipe 300; seed {run.seed}")
    if run.options:
        options = ' '.join(f'{k}={v}' for k, v in run.options.items())
        lines.append(f'settings differ: {options}')
    if table.remark:
        lines.append(table.remark)
    return lines


def ablation_table(
    run: AblationRun, table: PaperTable, results: Mapping[str, RowResult]
) -> Table:
    """Lay out the paper's figures and ours.

    Args:
        run: Settings of the run.
        table: The paper's table.
        results: Results by the name of the row, of some rows or all.
    """
    head, *rows = _cells(run, table, results)
    laid_out = Table(*head, title=f'{table.name}: {table.title}')
    for row in rows:
        laid_out.add_row(*row)
    return laid_out


def _cells(
    run: AblationRun, table: PaperTable, results: Mapping[str, RowResult]
) -> list[list[str]]:
    """Text of all cells, the head first."""
    costs = any(row.gflops for row in table.rows)
    head = [
        *('row', 'what', f'paper ({table.dataset})'),
        f'top-1 ({dataset_title(run.dataset)})',
        *(['paper GFLOPs'] if costs else []),
        *('fine pass *', 'both passes *'),
    ]
    cells = [head]
    for row in table.rows:
        ours = results.get(row.name)
        figures = [MISSING, '-', '-']
        if ours is not None:
            figures = [
                f'{ours.top1:.1f}',
                f'{ours.gflops_fine_published:.2f}',
                f'{ours.gflops:.2f}',
            ]
        cells.append(
            [
                *(row.name, row.label, f'{row.top1:.1f}', figures[0]),
                *([f'{row.gflops:.1f}'] if costs else []),
                *figures[1:],
            ]
        )
    return cells


def write_report(
    run: AblationRun, table: PaperTable, results: Mapping[str, RowResult]
) -> list[Path]:
    """Write ``TABLE.json`` and ``TABLE.md`` into the work dir.

    Args:
        run: Settings of the run.
        table: The paper's table.
        results: Results by the name of the row, of some rows or all.

    Returns:
        The two files.
    """
    files = [run.work_dir / f'{table.name}.{kind}' for kind in ('json', 'md')]
    notes = remarks(run, table)
    rows = [
        dict(
            asdict(row),
            result=asdict(results[row.name]) if row.name in results else None,
        )
        for row in table.rows
    ]
    report = dict(
        table=table.name,
        title=table.title,
        paper_dataset=table.dataset,
        dataset=run.dataset,
        seed=run.seed,
        remarks=notes,
        rows=rows,
    )
    run.work_dir.mkdir(parents=True, exist_ok=True)
    mmengine.dump(report, files[0], indent=2)
    head, *cells = _cells(run, table, results)
    lines = [
        *(f'# {table.name}: {table.title}', ''),
        *(_line(head), _line(['---'] * len(head)), *map(_line, cells), ''),
        *(f'- {text}' for text in notes),
    ]
    files[1].write_text('\n'.join(lines) + '\n')
    return files


def _line(cells: list[str]) -> str:
    return f'| {" | ".join(cells)} |'

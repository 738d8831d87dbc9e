"""Rows of ``benchmarks.gpu``, written to files as they come."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path

import mmengine

from mmscope.benchmark.timing import Timing


@dataclass(frozen=True)
class Row:
    """One thing that was measured, or the reason why it was not.

    Attributes:
        section: Heading that it belongs to.
        case: What was run: sizes, precision, passes.
        what: Who ran it.
        time: Milliseconds of a call.
        value: What follows from the time, in ``unit``.
        unit: Such as 'images/s'.
        ratio: Time of the section's baseline over this one's.
        memory: Peak above what was there before, MiB.
        note: What else must be known, or why there is no time.
    """

    section: str
    case: str
    what: str
    time: Timing | None = None
    value: float | None = None
    unit: str = ''
    ratio: float | None = None
    memory: float | None = None
    note: str = ''


@dataclass
class Report:
    """All rows, in ``gpu.json`` and ``gpu.md`` after each of them.

    Attributes:
        folder: Folder that the files are written to.
        facts: Environment.
        budget: Seconds after which nothing new is begun.
        rows: What was measured so far.
    """

    folder: Path
    facts: dict
    budget: float
    rows: list[Row] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def seconds_left(self) -> float:
        """What remains of the budget."""
        return self.budget - (time.monotonic() - self.started)

    def add(self, *rows: Row) -> None:
        """Add rows and write everything, so that an end loses nothing."""
        self.rows += rows
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = [asdict(row) for row in self.rows]
        mmengine.dump(
            dict(environment=self.facts, rows=rows),
            str(self.folder / 'gpu.json'),
            indent=2,
        )
        (self.folder / 'gpu.md').write_text(self.markdown())

    def markdown(self) -> str:
        """All rows as tables, below what a reader must know."""
        facts = {**self.facts, **self.facts.get('gpu', {})}
        lines = ['# mmscope on a GPU', '', '| what | |', '|---|---|']
        lines += [f'| {k} | {v} |' for k, v in facts.items() if k != 'gpu']
        for section, rows in groupby(self.rows, lambda row: row.section):
            lines += ['', f'## {section}', '', HEADING, RULE]
            lines += [_line(row) for row in rows]
        return '\n'.join(lines) + '\n'


HEADING = (
    '| case | what | median ms | fastest | p99 | value | ratio | MiB | note |'
)
RULE = '|---|---|---|---|---|---|---|---|---|'


def _line(row: Row) -> str:
    cells = [row.case, row.what]
    cells += [
        '-' if row.time is None else f'{getattr(row.time, name):.3f}'
        for name in ('median', 'minimum', 'p99')
    ]
    cells += [
        '-' if row.value is None else f'{row.value:.4g} {row.unit}',
        '-' if row.ratio is None else f'{row.ratio:.2f}',
        '-' if row.memory is None else f'{row.memory:.0f}',
        row.note,
    ]
    return f'| {" | ".join(cells)} |'

"""What fps_bench found, as a table and in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import mmengine
from rich.table import Table

from .cases import FpsRecord, describe_exits

COLUMNS = (
    *('model', 'params', 'exits', 'resolution', 'batch', 'dtype', 'scan'),
    *('scope', 'exit rate', 'mean share', 'fps', 'IQR %', 'log10'),
    *('p50 ms', 'p99 ms'),
    *('× Vim', '× official', 'peak MiB', 'GFLOPs', 'bound', 'of bound'),
    'score',
)
SCOPE_NAMES = dict(backbone='backbone', fpn='+FPN', head='+full head')


def fps_table(records: Sequence[FpsRecord]) -> Table:
    """Lay out what was measured; columns that hold nothing are left out."""
    measured = [record for record in records if record.time is not None]
    rows = [_row(record) for record in measured]
    shown = [
        number
        for number in range(len(COLUMNS))
        if any(row[number] != '-' for row in rows)
    ]
    table = Table(*(COLUMNS[number] for number in shown))
    last = None
    for record, row in zip(measured, rows, strict=True):
        case = record.case
        group = (case.size, case.batch_size, case.scope)
        if last not in (None, group):
            table.add_section()
        last = group
        table.add_row(*(row[number] for number in shown))
    return table


def _row(record: FpsRecord) -> tuple[str, ...]:
    case, time = record.case, record.time
    return (
        case.model,
        f'{record.params / 1e6:.2f}M',
        describe_exits(case),
        'x'.join(map(str, case.size)),
        str(case.batch_size),
        case.dtype,
        case.backend,
        SCOPE_NAMES[case.scope],
        _figure(record.exit_rate, '.4f'),
        _figure(record.mean_share, '.4f'),
        _figure(record.fps, '.2f'),
        f'{100 * time.spread / time.median:.0f}',
        _figure(record.log10_fps, '.3f'),
        *_latency(record),
        _figure(record.vs_vim, '.3f'),
        _figure(record.vs_official, '.3f'),
        _figure(record.memory, '.0f'),
        _figure(record.gflops, '.2f'),
        _figure(record.bound, '.3f'),
        _figure(record.share_of_bound, '.1%'),
        record.score or '-',
    )


def _figure(value: float | None, layout: str) -> str:
    return '-' if value is None else f'{value:{layout}}'


def _latency(record: FpsRecord) -> tuple[str, str]:
    """Of single images, where they were run one by one."""
    if record.case.batch_size > 1:
        return '-', '-'
    return f'{record.time.p50:.2f}', f'{record.time.p99:.2f}'


def remarks(records: Sequence[FpsRecord]) -> list[str]:
    """What the table alone does not say, a line each."""
    failed = {(r.case.model, r.reason) for r in records if r.reason}
    lines = [f'{name} was not measured: {why}' for name, why in sorted(failed)]
    lines += sorted({f'{r.case.model}: {r.note}' for r in records if r.note})
    by_width = {'vim_t': 'deit_t', 'vim_s': 'deit_s'}
    for vim, deit in by_width.items():
        for scope in SCOPE_NAMES:
            line = crossing(records, vim, deit, scope)
            lines += [line] if line else []
    return lines


def crossing(
    records: Sequence[FpsRecord], vim: str, deit: str, scope: str
) -> str | None:
    """From which resolution Vim is faster than DeiT, in words.

    None unless both were measured at two resolutions or more. Between two of
    them the ratio is taken to go with the logarithm of the pixels.
    """
    fps = {
        (r.case.model, r.case.size): r.fps
        for r in records
        if r.case.scope == scope and r.fps is not None
    }
    ratios = [
        (size, fps[vim, size] / fps[deit, size])
        for size in sorted({size for _, size in fps}, key=math.prod)
        if (vim, size) in fps and (deit, size) in fps
    ]
    if len(ratios) < 2:
        return None
    listed = ', '.join(f'{r:.2f} at {h}x{w}' for (h, w), r in ratios)
    text = f'{vim} over {deit}, {SCOPE_NAMES[scope]}: {listed}'
    for (size, low), (larger, high) in pairwise(ratios):
        if low < 1 <= high:
            start, end = math.prod(size), math.prod(larger)
            weight = math.log(1 / low) / math.log(high / low)
            side = math.sqrt(start * (end / start) ** weight)
            return f'{text}; they cross near {side:.0f} pixels squared'
    return f'{text}; no crossing between these'


def save(path: str | Path, environment: dict, records: Iterable[Any]) -> None:
    """Write records, dataclasses, and their environment as json."""
    records = [asdict(record) for record in records]
    report = dict(environment=environment, records=records)
    mmengine.dump(report, str(path), file_format='json', indent=2)

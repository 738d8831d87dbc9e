"""Measure the selective scans: ours and those of others, in one run.

python -m benchmarks.scan_bench --length 65 257 1025 --threads 1 2
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from operator import attrgetter
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from mmscope.benchmark.environment import environment
from mmscope.benchmark.report import save
from mmscope.benchmark.timing import (
    Timing,
    time_in_turns,
    torch_threads,
)

from .backbone_bench import PRECISIONS, BackboneRecord, bench_backbone
from .scan_cases import (
    DTYPES,
    PASSES,
    ScanCase,
    check_names,
    peak_memory,
    prepare,
    refusals,
)
from .scan_contenders import BASELINE

PACKAGES = ('mambapy', 'transformers', 'mamba-ssm', 'triton')


@dataclass(frozen=True)
class ScanRecord:
    """What one contender took for one case; None where not measured.

    Attributes:
        case: The case.
        contender: Name of the contender.
        time: Milliseconds.
        ratio: Median of the baseline over this one's.
        ratio_of_minima: The same of the fastest calls.
        memory: Peak memory above the inputs, MiB: see ``peak_memory``.
        reason: Why it could not run.
    """

    case: ScanCase
    contender: str
    time: Timing | None = None
    ratio: float | None = None
    ratio_of_minima: float | None = None
    memory: float | None = None
    reason: str | None = None


def bench_scan(
    case: ScanCase,
    names: Sequence[str] = (),
    repeats: int = 10,
    memory: bool = True,
    step: Callable[[], None] = lambda: None,
) -> list[ScanRecord]:
    """Time contenders on the same inputs, in turns.

    Args:
        case: What is scanned.
        names: Contenders; default all.
        repeats: Turns of each; a turn of a fast one is several calls.
        memory: Whether to measure memory too, on CPU in processes of their
            own.
        step: Called after each turn and each measurement of memory.

    Returns:
        One record for each of ``names``, with a reason if it cannot run.
    """
    reasons = refusals(case, names)
    able = [name for name, reason in reasons.items() if reason is None]
    with torch_threads(case.threads):
        timings = time_in_turns(
            {name: prepare(name, case) for name in able},
            repeats,
            case.device,
            step,
        )
    peaks = {}
    for name, timing in timings.items():
        if isinstance(timing, str):
            reasons[name] = timing
        elif memory:
            peaks[name] = peak_memory(name, case)
            step()
    return [
        _record(case, name, timings, peaks.get(name), reason)
        for name, reason in reasons.items()
    ]


def _record(
    case: ScanCase,
    name: str,
    timings: dict[str, Timing | str],
    memory: float | None,
    reason: str | None,
) -> ScanRecord:
    if reason is not None:
        return ScanRecord(case, name, reason=reason)
    own, base = timings[name], timings.get(BASELINE)
    ratios = (None, None)
    if isinstance(base, Timing):
        ratios = base.median / own.median, base.minimum / own.minimum
    return ScanRecord(case, name, own, *ratios, memory)


def scan_table(records: Sequence[ScanRecord]) -> Table:
    """Lay out what was measured of one case."""
    case = records[0].case
    table = Table(
        Column('contender', no_wrap=True),
        *('median', 'min', 'IQR', 'x', 'x min', 'peak MiB'),
        title=f'{case.passes}, L={case.length}, {case.threads} thread(s), ms',
        caption=f'x: time of {BASELINE} over this one, medians and minima',
    )
    for record in records:
        if record.time is None:
            continue
        rest = (record.ratio, record.ratio_of_minima, record.memory)
        table.add_row(record.contender, *_times(record.time), *_others(rest))
    return table


def backbone_table(records: Sequence[BackboneRecord]) -> Table:
    """Lay out what was measured of the backbone at one size."""
    one = records[0]
    table = Table(
        *('backend', 'precision', 'median', 'min', 'IQR'),
        *('scan %', 'training peak MiB'),
        title=f'Vim {one.arch}, {one.size} x {one.size}, {one.threads} '
        'thread(s), forward, one image, ms',
    )
    for one in records:
        if one.time is None:
            continue
        share = None if one.scan_share is None else 100 * one.scan_share
        rest = (share, one.memory)
        names = (one.backend, one.precision)
        table.add_row(*names, *_times(one.time), *_others(rest))
    return table


def _times(time: Timing) -> list[str]:
    figures = (time.median, time.minimum, time.spread)
    return [f'{milliseconds:.2f}' for milliseconds in figures]


def _others(figures: Iterable[float | None]) -> list[str]:
    return ['-' if x is None else f'{x:.1f}' for x in figures]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    add = parser.add_argument
    add('--batch', type=int, default=1, help='images B')
    add('--dim', type=int, default=384, help='channels Dim')
    add('--length', type=int, nargs='+', default=[1025], help='tokens L')
    add('--state', type=int, default=16, help='states S of a channel')
    add('--dtype', choices=list(DTYPES), default='float32')
    add('--device', default='cpu', help="'cpu' or 'cuda'")
    threads = [torch.get_num_threads()]
    add('--threads', type=int, nargs='+', default=threads)
    add('--passes', choices=PASSES, nargs='+', default=list(PASSES))
    add('--repeats', type=int, default=10, help='turns of each contender')
    add('--backends', nargs='+', default=[], help='contenders; default all')
    add('--no-memory', action='store_true', help='do not measure memory')
    add(
        '--backbone',
        type=int,
        nargs='+',
        metavar='SIZE',
        help='measure the Vim-Ti backbone on CPU at these image sizes '
        'instead; --backends are scan backends then',
    )
    add('--out', type=Path, help='json file to write')
    return parser.parse_args(argv)


def run_scans(args: argparse.Namespace, progress: Progress) -> list:
    """Measure every case the user asked for."""
    cases = [
        ScanCase(
            *(args.batch, args.dim, length, args.state),
            *(args.dtype, args.device, threads, passes),
        )
        for passes, length, threads in product(
            args.passes, args.length, args.threads
        )
    ]
    names, memory = check_names(args.backends), not args.no_memory
    able = list(refusals(cases[0], names).values()).count(None)
    total = len(cases) * able * (args.repeats + memory)
    task = progress.add_task('Scans', total=total)
    records = []
    for case in cases:
        records += bench_scan(
            case, names, args.repeats, memory, lambda: progress.advance(task)
        )
    return records


def run_backbones(args: argparse.Namespace, progress: Progress) -> list:
    """Measure the backbone with every backend the user asked for."""
    if args.device != 'cpu':
        raise ValueError(f'backbones run on the CPU, got {args.device!r}')
    backends = args.backends or ['auto']
    each = len(PRECISIONS) * len(args.backbone) * len(backends)
    total = each * len(args.threads) * (args.repeats + 1)
    task = progress.add_task('Backbones', total=total)
    records = []
    for threads in args.threads:
        records += bench_backbone(
            args.backbone,
            backends,
            threads=threads,
            repeats=args.repeats,
            memory=not args.no_memory,
            step=lambda: progress.advance(task),
        )
    return records


def show(console: Console, records: Sequence) -> None:
    """Print a table for each case, and once what cannot run."""
    backbone = isinstance(records[0], BackboneRecord)
    layout = backbone_table if backbone else scan_table
    kind = attrgetter(*(('size', 'threads') if backbone else ('case',)))
    for _, rows in groupby(records, kind):
        console.print(layout(list(rows)))
    name = attrgetter('backend' if backbone else 'contender')
    for one, why in {(name(r), r.reason) for r in records if r.reason}:
        console.print(f'{one} cannot run: {why}')


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    console = Console(markup=False)
    try:
        before = environment(args.device, PACKAGES)
        with Progress(console=console) as progress:
            run = run_backbones if args.backbone else run_scans
            records = run(args, progress)
    except ValueError as error:
        raise SystemExit(f'scan_bench: {error}') from None
    show(console, records)
    console.print(before)
    if args.out:
        save(args.out, before, records)
        console.print(f'written to {args.out}')


if __name__ == '__main__':
    main()

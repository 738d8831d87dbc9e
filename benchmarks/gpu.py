"""Our kernels against mamba_ssm's, on a GPU, by one command.

python -m benchmarks.gpu --out DIR [--budget 240]

The machine first, then scans, backbones and training steps, ours beside the
official Vim's sequence of calls. DIR/gpu.md and DIR/gpu.json are rewritten
after every group of rows, and a group that fails is a row that says why.
--dry-run runs everything on a CPU at toy sizes, with the reference scan in
place of mamba_ssm's kernel.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from mmscope.benchmark.environment import environment

from .gpu_benches import (
    DRY_RUN,
    Sizes,
    bench_agreement,
    bench_machine,
    bench_nets,
    bench_scans,
    forward,
    training_step,
)
from .gpu_report import Report, Row

PACKAGES = ('triton', 'mamba-ssm', 'causal-conv1d')
Group = tuple[str, str, Callable[[], list[Row]]]


def groups(sizes: Sizes) -> Iterator[Group]:
    """Section, case and call of all that is measured, most telling first."""
    yield 'Machine', '', partial(bench_machine, sizes)
    yield 'Agreement', '', partial(bench_agreement, sizes)

    def scans(passes: str) -> Iterator[Group]:
        for batch, length in sizes.scans:
            call = partial(bench_scans, sizes, batch, length, passes)
            yield f'Scan, {passes}', f'B {batch}, L {length}', call

    def nets(section: str, cases: Sequence, make: Callable) -> Iterator[Group]:
        for batch, side in cases:
            call = partial(bench_nets, sizes, section, batch, side, make)
            yield section, f'batch {batch}, {side} x {side}', call

    yield from scans('forward')
    yield from nets('Backbone', sizes.backbones, forward)
    yield from nets('Training', sizes.training, training_step)
    yield from scans('forward+backward')


def measure(sizes: Sizes, report: Report) -> None:
    """Measure one group after the other, as long as the budget lasts."""
    for section, case, bench in groups(sizes):
        if report.seconds_left() <= 0:
            note = f'left out: the budget of {report.budget:g} s is spent'
            report.add(Row(section, case, 'all', note=note))
            continue
        try:
            report.add(*bench())
        # kernels fail in many ways, and none may cost the other rows
        except Exception as error:
            first_line = str(error).split('\n')[0]
            note = f'{type(error).__name__}: {first_line}'
            report.add(Row(section, case, 'all', note=note))
        if torch.device(sizes.device).type == 'cuda':
            torch.cuda.empty_cache()


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add('--out', type=Path, required=True, help='folder of gpu.json, gpu.md')
    add('--device', default='cuda', help='cuda or cuda:N')
    add('--budget', type=float, default=240, help='seconds')
    add('--repeats', type=int, default=5, help='turns of each')
    add('--dry-run', action='store_true', help='toy sizes on the CPU')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    sizes = replace(Sizes(), device=args.device, repeats=args.repeats)
    if args.dry_run:
        sizes = DRY_RUN
    # full float32 where results are compared
    torch.backends.cudnn.allow_tf32 = False
    try:
        facts = environment(sizes.device, PACKAGES)
    except ValueError as error:
        raise SystemExit(f'benchmarks.gpu: {error}; or --dry-run') from None
    report = Report(args.out, facts, args.budget)
    measure(sizes, report)
    Console(width=200).print(report.markdown(), markup=False)


if __name__ == '__main__':
    main()

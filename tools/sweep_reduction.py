"""What a model gives and costs by how much its tokens are reduced.

The weights may be those of the plain model: merging and pruning have no
parameters of their own.
"""

import argparse
from pathlib import Path

import mmengine
from rich.console import Console
from rich.table import Table

from mmscope.benchmark.reduction import plot_reduction, sweep_reduction
from mmscope.engine.options import add_cfg_options


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        '--num-merged',
        type=int,
        nargs='+',
        help='of TokenMerging: tokens merged at a time, of 196',
    )
    which.add_argument(
        '--ratio',
        type=float,
        nargs='+',
        help='of HiddenAlignPruning: share of tokens kept at a time',
    )
    which.add_argument(
        '--keep-ratio',
        type=float,
        nargs='+',
        help='of DynamicTokens: share of tokens kept at a time',
    )
    parser.add_argument('--out-dir', default='work_dirs/reduction')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    settings = ('num_merged', 'ratio', 'keep_ratio')
    name = next(each for each in settings if getattr(args, each))
    values = getattr(args, name)
    out_dir = Path(args.out_dir)
    records = sweep_reduction(
        args.config,
        args.checkpoint,
        name,
        values,
        str(out_dir),
        args.cfg_options,
    )
    mmengine.dump(records, out_dir / 'reduction.json', indent=2)
    chooses = 'directions' in records[0]
    more = ('directions run',) if chooses else ()
    table = Table(name, records[0]['metric'], 'GFLOPs', *more)
    for record in records:
        table.add_row(
            f'{record[name]:g}',
            f'{record["score"]:.2f}',
            f'{record["gflops"]:.4g}',
            *([f'{record["directions"]:.0%}'] if chooses else ()),
        )
    console = Console(markup=False)
    console.print(table)
    plot_reduction(records, name, out_dir / 'reduction.png')
    console.print(f'written to {out_dir}')


if __name__ == '__main__':
    main()

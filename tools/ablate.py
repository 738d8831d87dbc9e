"""Train and test the rows of one of the paper's ablations, and compare.

A finished row is skipped and an unfinished one resumed, as long as the
settings are the same.
"""

import argparse
from pathlib import Path

from rich.console import Console

from mmscope.engine.ablation import (
    DATASETS,
    AblationRun,
    ablation_table,
    find_table,
    read_tables,
    remarks,
    write_report,
)
from mmscope.engine.options import add_cfg_options
from mmscope.utils.writable import check_folder

CONFIGS = Path(__file__).parents[1] / 'configs' / 'ablation'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'table', help='table4, table5, table6, table7 or figure5'
    )
    parser.add_argument('--data', help="folder of the data; default the set's")
    parser.add_argument(
        '--dataset',
        default='mini_imagenet',
        help=f'one of {", ".join(DATASETS)}',
    )
    parser.add_argument(
        '--epochs', type=int, help='scale the schedule of 300 epochs to these'
    )
    parser.add_argument('--rows', nargs='+', help='rows; default all')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--work-dir',
        help='folder of all rows; default work_dirs/ablation and data set, '
        'epochs and seed',
    )
    add_cfg_options(parser, 'change settings of all rows, as key=value')
    return parser.parse_args()


def work_dir(args: argparse.Namespace) -> Path:
    if args.work_dir:
        return Path(args.work_dir)
    epochs = f'_{args.epochs}e' if args.epochs else ''
    name = f'{args.dataset}{epochs}_seed{args.seed}'
    return Path('work_dirs/ablation') / name


def main() -> None:
    args = parse_args()
    check_folder(work_dir(args), '--work-dir')
    run = AblationRun(
        CONFIGS,
        work_dir(args),
        dataset=args.dataset,
        data=args.data,
        epochs=args.epochs,
        seed=args.seed,
        options=args.cfg_options or {},
    )
    console = Console(markup=False)
    console.width = max(console.width, 110)  # no figure is cut off
    try:
        table = find_table(read_tables(CONFIGS), args.table)
        rows = [row.name for row in table.choose(args.rows)]
        run.check_rows(table, rows)
        states = {row: run.state(table, row) for row in rows}
    except ValueError as err:
        raise SystemExit(f'ablate: {err}') from None
    for number, (row, state) in enumerate(states.items(), 1):
        console.rule(f'{table.name}: {row}, {number} of {len(rows)}, {state}')
        run.run(table, row)
        files = write_report(run, table, run.results(table))
    console.print(ablation_table(run, table, run.results(table)))
    for line in remarks(run, table):
        console.print(f'- {line}')
    console.print(f'written to {files[0]} and {files[1]}')


if __name__ == '__main__':
    main()

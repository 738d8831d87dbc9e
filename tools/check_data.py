"""Say of a config's data what is there, what is missing, and how to mend it.

Exit status 1 if there is a problem.
"""

import argparse

from rich.console import Console
from rich.table import Table

from mmscope.engine.data_report import SplitReport, report_data
from mmscope.engine.launch import load_config
from mmscope.engine.options import add_cfg_options


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--splits',
        nargs='+',
        choices=('train', 'val', 'test'),
        default=('train', 'val'),
        help='default: train val; of most configs test is val',
    )
    parser.add_argument(
        '--num',
        type=int,
        default=20,
        help='samples of each split that are read through its pipeline',
    )
    add_cfg_options(parser)
    return parser.parse_args()


def table(*titles: str) -> Table:
    """An empty table that cuts no path short."""
    sheet = Table()
    for title in titles:
        sheet.add_column(title, overflow='fold')
    return sheet


def show(reports: list[SplitReport]) -> None:
    console = Console(markup=False, highlight=False)
    sheet = table('split', 'dataset', 'images', 'annotations', 'opened', 'in')
    for one in reports:
        counts = str(one.images), one.annotations, str(one.opened)
        sheet.add_row(one.split, one.dataset, *counts, one.folder)
    console.print(sheet)
    found = [(one.split, *row) for one in reports for row in one.problems]
    if not found:
        console.print('no problem found')
        return
    sheet = table('split', 'value', 'rule', 'fix')
    for row in found:
        sheet.add_row(*map(str.strip, row), end_section=True)
    console.print(sheet)


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, options=args.cfg_options)
    reports = report_data(cfg, tuple(args.splits), args.num)
    show(reports)
    if any(one.problems for one in reports):
        raise SystemExit(1)


if __name__ == '__main__':
    main()

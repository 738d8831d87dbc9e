"""What refining gives by each score of cells and each share: a table.

Importance is the paper's score; chance is the least that a score must beat,
and the oracle, which knows the ground truth, bounds it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import mmengine
from rich.console import Console
from rich.table import Table
from torch import nn

from mmscope.engine.options import add_cfg_options
from mmscope.evaluation.task_metric import find_task_metric
from mmscope.exits import count_share_gflops
from mmscope.exits.cells import OWN_SCORE, SCORES, compare_cells
from mmscope.exits.plots import plot_cells
from mmscope.exits.replay import Record
from mmscope.exits.report import write_csv
from mmscope.exits.runs import build_exit_runner
from mmscope.models import exit_settings
from mmscope.models.cell_scores import score_class

ALPHAS = (0.2, 0.4, 0.6, 0.8, 1.0)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--scores',
        nargs='+',
        choices=[OWN_SCORE, *SCORES],
        help="scores of cells; default all that the model can give, 'model' "
        'being its own',
    )
    parser.add_argument(
        '--alphas',
        type=float,
        nargs='+',
        default=ALPHAS,
        help='shares of cells to refine',
    )
    parser.add_argument('--out-dir', help='folder for what is written')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    runner = build_exit_runner(
        args.config, args.checkpoint, args.out_dir, args.cfg_options
    )
    out_dir = Path(args.out_dir or Path(runner.cfg.work_dir) / 'cells')
    model, metric = (
        runner.model,
        find_task_metric(runner.test_evaluator.metrics),
    )
    alphas = sorted(set(args.alphas))
    with exit_settings(model, alpha=alphas):
        cost = count_share_gflops(model)
        records = compare_cells(
            model,
            runner.test_loop.dataloader,
            metric,
            scores_of(model, args.scores),
            alphas,
            cost,
        )
    out_dir.mkdir(parents=True, exist_ok=True)
    # what took long is written before anything else may fail
    mmengine.dump(records, out_dir / 'cells.json', indent=2)
    write_csv(records, out_dir / 'cells.csv')
    console = Console(markup=False)
    for key, title in (
        ('score', metric.main),
        ('objects', "share of the objects' pixels that is refined"),
        ('edges', "share of the edges' pixels that is refined"),
    ):
        console.print(table(records, key, title))
    plot_cells(records, out_dir / 'cells.png', metric.main)
    console.print(f'written to {out_dir}')


def scores_of(
    model: nn.Module, names: Sequence[str] | None
) -> dict[str, dict | nn.Module]:
    own = model.backbone.cell_score
    known = {**SCORES, OWN_SCORE: own}
    if names is not None:
        return {name: known[name] for name in names}
    if type(own) in map(score_class, SCORES.values()):
        del known[OWN_SCORE]
    pixels = getattr(model, 'predicts_pixels', False)
    return {
        name: config
        for name, config in known.items()
        if name == OWN_SCORE or pixels or not score_class(config).needs_pixels
    }


def table(records: Sequence[Record], key: str, title: str) -> Table:
    coarse, *others = records
    alphas = sorted({record['alpha'] for record in others})
    sheet = Table('cells by', *(f'{a:g}' for a in alphas), title=title)
    for name in dict.fromkeys(record['cells'] for record in others):
        row = [f'{r[key]:.4g}' for r in others if r['cells'] == name]
        sheet.add_row(name, *row)
    costs = {record['alpha']: record['gflops'] for record in others}
    sheet.add_section()
    sheet.add_row('GFLOPs', *(f'{costs[a]:.4g}' for a in alphas))
    if key == 'score':
        sheet.caption = (
            f'all exit: {coarse[key]:.4g} at {coarse["gflops"]:.4g} GFLOPs'
        )
    return sheet


if __name__ == '__main__':
    main()

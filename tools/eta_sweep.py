"""What each threshold eta gives: metric, exit rate, GFLOPs, FPS, pictures.

Both answers to every image are kept below --out-dir; a run that was stopped
goes on where it was.
"""

import argparse
from pathlib import Path

import mmengine
import numpy as np
from mmengine.config import DictAction
from rich.console import Console

from mmscope.evaluation.task_metric import find_task_metric
from mmscope.exits import (
    AnswerCache,
    collect_answers,
    count_gflops,
    measure_fps,
)
from mmscope.exits.plots import plot_stages, plot_sweep
from mmscope.exits.replay import TOLERANCE, auroc_text, share_text
from mmscope.exits.report import report_sweep, sweep_table
from mmscope.exits.runs import build_exit_runner
from mmscope.models.exit_policies import POLICIES, build_policy
from mmscope.visualization import draw_scope, picture_scope

ETAS = (0.0, *np.arange(0.5, 1.0, 0.025).round(3), 1.0)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--eta', type=float, nargs='+', default=ETAS, help='thresholds'
    )
    parser.add_argument('--out-dir', help='folder for what is written')
    parser.add_argument(
        '--policies',
        nargs='+',
        default=[],
        choices=sorted(POLICIES),
        help='other exit policies to compare with',
    )
    parser.add_argument(
        '--measure',
        type=float,
        nargs='+',
        default=[],
        metavar='ETA',
        help='thresholds to run for real and time',
    )
    parser.add_argument(
        '--tolerance',
        type=float,
        default=TOLERANCE,
        help='points that a coarse answer "as good as the fine one" may lack',
    )
    parser.add_argument(
        '--draws', type=int, default=20, help='random exits to average over'
    )
    parser.add_argument(
        '--num-pictures', type=int, default=8, help='images in pictures.png'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='change settings of the config, as key=value',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    runner = build_exit_runner(
        args.config, args.checkpoint, args.out_dir, args.cfg_options
    )
    model, cfg = runner.model, runner.cfg
    out_dir = Path(args.out_dir or Path(cfg.work_dir) / 'sweep')
    loader = runner.test_loop.dataloader
    metric = find_task_metric(runner.test_evaluator.metrics)
    by_policy = collect_answers(
        model,
        loader,
        metric,
        AnswerCache.of_run(out_dir, cfg, args.checkpoint),
        {name: build_policy(name) for name in args.policies},
        count_gflops(model),
    )
    report = report_sweep(
        by_policy, metric, args.eta, args.tolerance, args.draws
    )
    for record in report.sweep:
        if record['eta'] in args.measure:
            record['fps_measured'] = measure_fps(model, loader, record['eta'])

    console = Console()
    console.print(sweep_table(report.sweep, metric.main))
    for name, values in report.quality.items():
        console.print(
            f'{name}: AUROC of "the coarse answer is as good as the fine one '
            f'(within {args.tolerance:g} points)" '
            f'{auroc_text(values["auroc"])}; '
            f'{share_text(values["share_of_oracle"])}'
        )
    report.write(out_dir)
    mmengine.dump(by_policy['model'].losses(), out_dir / 'losses.json')
    score = metric.main or 'score'
    plot_sweep(report.sweep, report.curves, out_dir / 'sweep.png', score)
    plot_stages(report.stages, report.sweep, out_dir / 'stages.png')
    if args.num_pictures:
        dataset = loader.dataset
        runner.visualizer.dataset_meta = dataset.metainfo
        chosen = by_policy['model'].spread(args.num_pictures)
        items = (dataset[i] for i in chosen)
        pictures = picture_scope(model, items, runner.visualizer, metric)
        draw_scope(pictures, model.backbone.eta, out_dir / 'pictures.png')
    console.print(f'written to {out_dir}')


if __name__ == '__main__':
    main()

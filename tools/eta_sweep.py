"""What each threshold eta gives: metric, exit rate, GFLOPs, FPS, pictures.

Both answers to every image are kept below --out-dir; a run that was stopped
goes on where it was. Several processes (torchrun, --launcher pytorch) share
the images. Of a model that refines as many cells as an image needs,
the pairs of eta and tau that no other pair beats are told as well.
"""

import argparse
from pathlib import Path

import mmengine
import numpy as np
from mmengine.dist import is_main_process
from mmengine.runner import Runner
from rich.console import Console

from mmscope.engine.launch import LAUNCHERS
from mmscope.engine.options import add_cfg_options
from mmscope.evaluation.task_metric import TaskMetric, find_task_metric
from mmscope.exits import (
    ExitAnswers,
    frontier,
    is_elastic,
    measure_fps,
    sweep_elastic,
)
from mmscope.exits.elastic import (
    ElasticAnswers,
    candidate_etas,
    candidate_taus,
)
from mmscope.exits.plots import plot_elastic, plot_stages, plot_sweep
from mmscope.exits.replay import TOLERANCE
from mmscope.exits.report import (
    SweepReport,
    elastic_table,
    quality_text,
    report_sweep,
    sweep_table,
    write_elastic,
)
from mmscope.exits.runs import (
    answers_of_run,
    build_exit_runner,
    elastic_of_run,
)
from mmscope.models.exit_policies import POLICIES, build_policy
from mmscope.utils.structures import unwrap
from mmscope.visualization import draw_scope, picture_scope

ETAS = (0.0, *np.arange(0.5, 1.0, 0.025).round(3), 1.0)


def threshold(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text} is not in [0, 1]')
    return value


def finite(text: str) -> float:
    value = float(text)
    if not np.isfinite(value):
        raise argparse.ArgumentTypeError(
            f'{text} is not finite; no tau at all is always among the pairs'
        )
    return value


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--eta', type=threshold, nargs='+', default=ETAS, help='thresholds'
    )
    parser.add_argument(
        '--tau',
        type=finite,
        nargs='+',
        help="thresholds of the cells' scores; default spread over those of "
        'the images',
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
        type=threshold,
        nargs='+',
        default=[],
        metavar='ETA',
        help='thresholds to run for real and time, beside those of --eta',
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
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher',
        choices=LAUNCHERS,
        default='none',
        help='what started the processes that share the images',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    runner = build_exit_runner(
        *(args.config, args.checkpoint, args.out_dir, args.cfg_options),
        launcher=args.launcher,
    )
    out_dir = Path(args.out_dir or Path(runner.cfg.work_dir) / 'sweep')
    metric = find_task_metric(runner.test_evaluator.metrics)
    by_policy = answers_of_run(
        runner,
        args.checkpoint,
        out_dir,
        metric,
        {name: build_policy(name) for name in args.policies},
    )
    is_main = is_main_process()
    console = Console(markup=False, quiet=not is_main)
    if is_main:
        tell_etas(args, runner, metric, by_policy, out_dir, console)
    if is_elastic(unwrap(runner.model)):
        pairs = elastic_of_run(runner, args.checkpoint, out_dir, metric)
        if is_main:
            tell_pairs(args, pairs, metric, out_dir, console)
    elif args.tau:
        console.print(
            '--tau is for models with several shares of alpha, or with tau'
        )
    if is_main and args.num_pictures:
        draw(args, runner, metric, by_policy['model'], out_dir)
    console.print(f'written to {out_dir}')


def tell_etas(
    args: argparse.Namespace,
    runner: Runner,
    metric: TaskMetric,
    by_policy: dict[str, ExitAnswers],
    out_dir: Path,
    console: Console,
) -> None:
    report = report_sweep(
        by_policy,
        metric,
        {*args.eta, *args.measure},
        args.tolerance,
        args.draws,
    )
    # what took long is written before anything else may fail
    report.write(out_dir)
    mmengine.dump(by_policy['model'].quality_drops(), out_dir / 'losses.json')
    if args.measure:
        measure(args, runner, report)
        report.write(out_dir)

    console.print(sweep_table(report.sweep, metric.main))
    console.print(quality_text(report.quality, args.tolerance))
    plot_sweep(report.sweep, report.curves, out_dir / 'sweep.png', metric.main)
    plot_stages(report.stages, report.sweep, out_dir / 'stages.png')


def measure(
    args: argparse.Namespace, runner: Runner, report: SweepReport
) -> None:
    loader = runner.test_loop.dataloader
    for record in report.sweep:
        if record['eta'] in args.measure:
            record['fps_measured'] = measure_fps(
                unwrap(runner.model), loader, record['eta']
            )


def tell_pairs(
    args: argparse.Namespace,
    answers: ElasticAnswers,
    metric: TaskMetric,
    out_dir: Path,
    console: Console,
) -> None:
    taus = [None, *args.tau] if args.tau else candidate_taus(answers)
    records = sweep_elastic(
        answers, metric, [*candidate_etas(answers), *args.eta], taus
    )
    write_elastic(records, out_dir)
    console.print(elastic_table(frontier(records), metric.main))
    plot_elastic(records, out_dir / 'elastic.png', metric.main)


def draw(
    args: argparse.Namespace,
    runner: Runner,
    metric: TaskMetric,
    answers: ExitAnswers,
    out_dir: Path,
) -> None:
    model, dataset = unwrap(runner.model), runner.test_loop.dataloader.dataset
    runner.visualizer.dataset_meta = dataset.metainfo
    chosen = answers.from_sure_to_unsure(args.num_pictures)
    items = (dataset[i] for i in chosen)
    pictures = picture_scope(model, items, runner.visualizer, metric)
    draw_scope(pictures, model.backbone.eta, out_dir / 'pictures.png')


if __name__ == '__main__':
    main()

"""Find the threshold eta that meets a budget.

It is fitted on calibration_dataloader where the config has one, and else on
training images, and then run on the validation set. Images that the model
was trained on make it surer than it will be: leave some out if you can.
"""

import argparse
import os
from pathlib import Path

import mmengine
import numpy as np
from mmengine.config import DictAction
from rich.console import Console

from mmscope.datasets.subset import spread_out
from mmscope.evaluation.task_metric import find_task_metric
from mmscope.exits import (
    AnswerCache,
    calibrate_eta,
    collect_answers,
    count_gflops,
    measure_fps,
)
from mmscope.exits.runs import build_exit_runner, write_child_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument(
        '--exit-rate', type=float, help='share of images that exit early'
    )
    budget.add_argument(
        '--gflops', type=float, help='GFLOPs per image, on average, at most'
    )
    budget.add_argument(
        '--fps', type=float, help='images per second here, at least'
    )
    budget.add_argument(
        '--max-drop',
        type=float,
        help='points of the metric lost against eta = 1, at most',
    )
    parser.add_argument(
        '--num-images', type=int, default=500, help='to fit on, at most'
    )
    parser.add_argument('--out-dir', help='folder for what is written')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='change settings of the config, as key=value',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    console = Console()
    given = {
        name: getattr(args, name)
        for name in ('exit_rate', 'gflops', 'fps', 'max_drop')
    }
    budget, value = next((k, v) for k, v in given.items() if v is not None)

    runner = build_exit_runner(
        args.config,
        args.checkpoint,
        args.out_dir,
        args.cfg_options,
        calibration=True,
    )
    out_dir = Path(args.out_dir or Path(runner.cfg.work_dir) / 'calibration')
    loader = runner.test_loop.dataloader
    spread_out(loader.dataset, args.num_images)
    metric = find_task_metric(runner.test_evaluator.metrics)
    answers = collect_answers(
        runner.model,
        loader,
        metric,
        AnswerCache.of_run(
            out_dir / f'{len(loader.dataset)}-images',
            runner.cfg,
            args.checkpoint,
        ),
        cost=count_gflops(runner.model),
    )['model']
    found = calibrate_eta(answers, metric, budget, value)
    expected = {k: v for k, v in found.expected.items() if np.isfinite(v)}
    console.print(
        f'eta = {found.eta:.4f} ({found.low:.4f} to {found.high:.4f} for nine '
        f'of ten resamplings of these {len(answers)} images)'
    )

    runner = build_exit_runner(
        args.config, args.checkpoint, args.out_dir, args.cfg_options
    )
    runner.model.backbone.eta = found.eta
    realised = runner.test()
    if budget == 'fps':
        realised['fps'] = measure_fps(
            runner.model, runner.test_loop.dataloader, found.eta
        )
    config = write_child_config(
        out_dir / f'{Path(args.config).stem}_eta.py',
        args.config,
        f'model = dict(backbone=dict(eta={found.eta!r}))',
        f'eta for {budget}={value:g}, from tools/calibrate_eta.py',
    )
    mmengine.dump(
        dict(
            budget={budget: value},
            eta=found.eta,
            low=found.low,
            high=found.high,
            images=len(answers),
            expected=expected,
            validation={k: float(v) for k, v in realised.items()},
        ),
        out_dir / 'calibration.json',
        indent=2,
    )
    console.print(
        f'asked for {budget} = {value:g}; expected '
        + ', '.join(f'{k} {v:.4g}' for k, v in expected.items())
    )
    console.print(
        'on validation: '
        + ', '.join(f'{k} {v:.4g}' for k, v in realised.items())
    )
    console.print(f'config with this eta: {os.path.relpath(config)}')


if __name__ == '__main__':
    main()

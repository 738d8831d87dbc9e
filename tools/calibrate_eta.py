"""Find the threshold eta that meets a budget, or the pair of eta and tau.

It is fitted on calibration_dataloader where the config has one, and else on
training images, and then run on the validation set. Images that the model
was trained on make it surer than it will be: leave some out if you can.
Several processes (torchrun, --launcher pytorch) share the images.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

import mmengine
import numpy as np
from mmengine.dist import barrier, is_main_process
from rich.console import Console

from mmscope.datasets.subset import spread
from mmscope.engine.launch import LAUNCHERS
from mmscope.engine.options import add_cfg_options
from mmscope.evaluation.task_metric import find_task_metric
from mmscope.exits import (
    BUDGETS,
    calibrate_elastic,
    calibrate_eta,
    is_elastic,
    measure_fps,
)
from mmscope.exits.runs import (
    answers_of_run,
    build_exit_runner,
    elastic_of_run,
    write_child_config,
)
from mmscope.utils.structures import unwrap


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
    given = {name: getattr(args, name) for name in BUDGETS}
    budget, value = next((k, v) for k, v in given.items() if v is not None)
    runner = build_exit_runner(
        args.config,
        args.checkpoint,
        args.out_dir,
        args.cfg_options,
        calibration=True,
        launcher=args.launcher,
    )
    out_dir = Path(args.out_dir or Path(runner.cfg.work_dir) / 'calibration')
    console = Console(markup=False, quiet=not is_main_process())
    metric = find_task_metric(runner.test_evaluator.metrics)
    total = len(runner.test_loop.dataloader.dataset)
    chosen = spread(total, args.num_images)
    run = runner, args.checkpoint, out_dir, metric
    model = unwrap(runner.model)
    if is_elastic(model):
        # all cells that alpha allows, or as many as an image needs
        answers = elastic_of_run(*run, chosen)
        found = calibrate_elastic(
            answers, metric, budget, value, model.backbone.tau
        )
        # budgets of exits alone keep the model's tau, which may be none
        tau = found.tau if found.tau is None else f'{found.tau:.4g}'
        console.print(f'eta = {found.eta:.4f}, tau = {tau}')
        changes = {
            'model.backbone.eta': found.eta,
            'model.backbone.tau': found.tau,
        }
        fitted = dict(eta=found.eta, tau=found.tau)
    else:
        answers = answers_of_run(*run, indices=chosen)['model']
        found = calibrate_eta(answers, metric, budget, value)
        console.print(
            f'eta = {found.eta:.4f} ({found.low:.4f} to {found.high:.4f} for '
            f'nine of ten resamplings of these {len(answers)} images)'
        )
        changes = {'model.backbone.eta': found.eta}
        fitted = dict(eta=found.eta, low=found.low, high=found.high)
    config = out_dir / f'{Path(args.config).stem}_eta.py'
    if is_main_process():
        write_child_config(
            config,
            args.config,
            changes,
            f'eta for {budget}={value:g}, from tools/calibrate_eta.py',
            args.cfg_options,
        )
    console.print(f'config with this eta: {os.path.relpath(config)}')
    expected = {k: v for k, v in found.expected.items() if np.isfinite(v)}
    record = dict(
        budget={budget: value},
        **fitted,
        images=len(answers),
        expected=expected,
    )
    path = out_dir / 'calibration.json'
    # what took long is written before validation may fail
    if is_main_process():
        mmengine.dump(record, path, indent=2)
    barrier()  # all read the config
    realised = validate(args, config, budget == 'fps')
    if is_main_process():
        mmengine.dump(dict(record, validation=realised), path, indent=2)
    console.print(
        f'asked for {budget} = {value:g}; expected {figures(expected)}'
    )
    console.print(f'on validation: {figures(realised)}')


def validate(
    args: argparse.Namespace, config: Path, timed: bool
) -> dict[str, float]:
    # a Runner writes its config, by the same name, into its work dir
    work_dir = config.parent / 'validation'
    runner = build_exit_runner(
        *(str(config), args.checkpoint, str(work_dir)), launcher=args.launcher
    )
    realised = {k: float(v) for k, v in runner.test().items()}
    if timed and is_main_process():
        model = unwrap(runner.model)
        net = model.backbone
        realised['fps'] = measure_fps(
            model, runner.test_loop.dataloader, net.eta, net.tau
        )
    return realised


def figures(values: Mapping[str, float]) -> str:
    return ', '.join(f'{key} {value:.4g}' for key, value in values.items())


if __name__ == '__main__':
    main()

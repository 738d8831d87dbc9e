"""Train a learned exit policy for a trained model, everything else frozen.

It learns on the images for calibration, see tools/calibrate_eta.py, and
writes a checkpoint and a config that test.py and the tools about eta take.
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console

from mmscope.engine.options import add_cfg_options
from mmscope.evaluation.task_metric import find_task_metric
from mmscope.exits.replay import TOLERANCE, auroc_text
from mmscope.exits.router import fit_router
from mmscope.exits.runs import build_exit_runner, write_child_config
from mmscope.models import LearnedRouter


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out-dir', help='folder for what is written')
    parser.add_argument(
        '--tolerance',
        type=float,
        default=TOLERANCE,
        help='points that a coarse answer "as good as the fine one" may lack',
    )
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    runner = build_exit_runner(
        args.config,
        args.checkpoint,
        args.out_dir,
        args.cfg_options,
        calibration=True,
    )
    out_dir = Path(args.out_dir or Path(runner.cfg.work_dir) / 'router')
    model = runner.model
    head = model.backbone.exit_head
    options = dict(
        in_channels=model.backbone.embed_dims, num_classes=head.num_classes
    )
    router = LearnedRouter(**options)
    fit = fit_router(
        model,
        router,
        runner.test_loop.dataloader,
        find_task_metric(runner.test_evaluator.metrics),
        args.tolerance,
    )
    model.backbone.exit_policy = router
    out_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = out_dir / 'router.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    policy = dict(type='mmscope.LearnedRouter', **options)
    config = write_child_config(
        out_dir / f'{Path(args.config).stem}_router.py',
        args.config,
        {'model.backbone.exit_policy': policy},
        f'exit policy of {checkpoint.name}, from tools/train_router.py',
        args.cfg_options,
    )
    Console(markup=False).print(
        f'fitted on {fit.images} images; on others, AUROC '
        f'{auroc_text(fit.auroc)}; by the exit head '
        f'{auroc_text(fit.auroc_before)}\n'
        f'config {config}, checkpoint {checkpoint}'
    )


if __name__ == '__main__':
    main()

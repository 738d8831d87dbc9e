"""Evaluate a checkpoint: metrics, pictures, predictions."""

import argparse
from pathlib import Path

from mmscope.engine.launch import LAUNCHERS, build_runner, load_config
from mmscope.engine.options import (
    MetricsFile,
    add_cfg_options,
    set_eta,
    set_output,
    set_pictures,
    set_tau,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--eta',
        type=float,
        help='confidence from which images exit early: 0 always, 1 never; '
        "default is the config's",
    )
    parser.add_argument(
        '--tau',
        type=float,
        help='score above which a cell is worth refining, where images get '
        "as many cells as they need; default is the config's",
    )
    parser.add_argument('--work-dir', help='folder for logs')
    parser.add_argument('--show-dir', help='folder for pictures')
    parser.add_argument(
        '--out', help='folder for metrics.json, exits.json and predictions'
    )
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.work_dir, args.cfg_options)
    if args.eta is not None:
        set_eta(cfg, args.eta)
    if args.tau is not None:
        set_tau(cfg, args.tau)
    if args.show_dir:
        set_pictures(cfg, args.show_dir)
    if args.out:
        set_output(cfg, args.out)
    runner = build_runner(cfg, args.launcher, ('test',), args.checkpoint)
    if args.out:
        runner.register_hook(MetricsFile(Path(args.out) / 'metrics.json'))
    runner.test()


if __name__ == '__main__':
    main()

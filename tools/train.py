"""Train a model from its config."""

import argparse

from mmscope.engine.launch import LAUNCHERS, build_runner, load_config
from mmscope.engine.options import (
    add_cfg_options,
    set_amp,
    set_auto_scale_lr,
    set_resume,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from a checkpoint; without one, from the latest in the '
        'work dir',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help="mixed precision: the config's optim_wrapper.dtype, or else "
        'float16 on a GPU and bfloat16 on a CPU',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate by the batch size over the config's",
    )
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.work_dir, args.cfg_options)
    if args.amp:
        set_amp(cfg)
    if args.auto_scale_lr:
        set_auto_scale_lr(cfg)
    if args.resume:
        set_resume(cfg, args.resume)
    build_runner(cfg, args.launcher, ('train', 'val')).train()


if __name__ == '__main__':
    main()

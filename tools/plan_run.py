"""Say what a training needs: memory, batch, learning rate, hours.

Of a GPU that is not here, time is an estimate from one end to the other; with
--device here some real steps are timed on this machine. Nothing is trained.
"""

import argparse

import mmengine
from rich.console import Console

from mmscope.engine.launch import load_config
from mmscope.engine.options import add_cfg_options
from mmscope.planning import DEVICES, make_plan
from mmscope.planning.report import (
    lines,
    memory_table,
    remedy_table,
    schedule_table,
)
from mmscope.utils.writable import check_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--device',
        default='here',
        help=f"'here' (default), or one of {', '.join(DEVICES)}",
    )
    parser.add_argument(
        '--gpus', type=int, default=1, help='number of processes; default 1'
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        help="images of a process; default what keeps the config's batch, "
        "and with --device here the config's own",
    )
    parser.add_argument(
        '--amp', action='store_true', help='plan mixed precision'
    )
    parser.add_argument(
        '--num-images',
        type=int,
        help='images of the training set, where its files are not here',
    )
    parser.add_argument('--out', help='json file to write')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_file(args.out, '--out')
    console = Console(markup=False, highlight=False)
    progress = Console(markup=False, highlight=False, stderr=True)
    try:
        plan = make_plan(
            load_config(args.config, options=args.cfg_options),
            *(args.device, args.gpus, args.batch_size, args.amp),
            *(args.num_images, args.cfg_options),
            tell=progress.print,
        )
    except (FileNotFoundError, ValueError) as err:
        raise SystemExit(f'plan_run: {err}') from None
    console.print(f'{plan.config}, {plan.schedule.gpus} x {plan.device.name}')
    console.print(memory_table(plan))
    console.print(schedule_table(plan))
    for line in lines(plan):
        console.print(line)
    if plan.remedies:
        console.print(remedy_table(plan))
    print(plan.command)
    if args.out:
        mmengine.dump(plan.record(), args.out, indent=2)
        print(f'written to {args.out}')


if __name__ == '__main__':
    main()

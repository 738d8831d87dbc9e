"""What an image costs: exact counts by component and by its path."""

import argparse
from collections.abc import Sequence

import mmengine
from mmengine.analysis import parameter_count
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from mmscope.benchmark.build import build_model, default_shape
from mmscope.engine.launch import build_runner, load_config
from mmscope.engine.options import add_cfg_options, set_eta
from mmscope.models import has_exits, is_elastic
from mmscope.utils.dataset_flops import DatasetFlops, dataset_flops
from mmscope.utils.flops import (
    COMPONENTS,
    CONVENTIONS,
    MASKS,
    PROPOSALS,
    ModelFlops,
    model_flops,
)
from mmscope.utils.windows import slides
from mmscope.utils.writable import check_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        help="image height and width, or one side; default is the config's "
        'crop size',
    )
    parser.add_argument(
        '--exit-rate',
        type=float,
        nargs='+',
        default=[],
        help='shares of images that exit early, to average over',
    )
    parser.add_argument(
        '--convention',
        choices=CONVENTIONS,
        default='two_direction',
        help='count what runs, or as the papers do: one scan direction, no '
        'norms, only the selected patches',
    )
    parser.add_argument(
        '--proposals',
        type=int,
        default=PROPOSALS,
        help="boxes that a detector's heads of regions look at",
    )
    parser.add_argument(
        '--masks', type=int, default=MASKS, help='boxes that get a mask'
    )
    parser.add_argument(
        '--checkpoint',
        help='average over the test images, each with its own size and exit',
    )
    parser.add_argument(
        '--eta', type=float, help="threshold for that; default the config's"
    )
    parser.add_argument('--out', help='json file to write')
    add_cfg_options(parser)
    return parser.parse_args()


def make_table(columns: dict[str, dict]) -> Table:
    """Lay out components in rows, and paths in columns."""
    table = Table('', *columns)
    for name in COMPONENTS:
        if any(column.get(name) for column in columns.values()):
            counts = [column.get(name, 0) for column in columns.values()]
            table.add_row(name, *(f'{n / 1e9:.3f}' for n in counts))
    totals = [sum(column.values()) for column in columns.values()]
    table.add_section()
    table.add_row('total', *(f'{n / 1e9:.3f}' for n in totals))
    return table


def make_share_table(rows: dict[str, dict]) -> Table:
    """Lay out paths in rows, which may be many, and components in columns."""
    names = [n for n in COMPONENTS if any(row.get(n) for row in rows.values())]
    table = Table('', *names, 'total')
    for path, row in rows.items():
        counts = [*(row.get(name, 0) for name in names), sum(row.values())]
        table.add_row(path, *(f'{count / 1e9:.3f}' for count in counts))
    return table


def make_columns(
    flops: ModelFlops, rates: Sequence[float], elastic: bool
) -> dict[str, dict]:
    """Name the paths of an image, and what their components cost.

    Raises:
        ValueError: If a rate is not from 0 to 1.
    """
    columns = {'all': flops.refined}
    if elastic:
        columns = {
            'coarse pass': flops.coarse,
            'exits, in all': flops.exited,
        } | {
            f'share {share:g}, in all': count
            for share, count in flops.by_share.items()
        }
    elif flops.coarse:
        columns = {
            'coarse pass': flops.coarse,
            'fine pass': flops.fine,
            'exits, in all': flops.exited,
            'refined, in all': flops.refined,
        }
    for rate in rates:
        columns[f'{100 * rate:g} % exit'] = flops.expected(rate)
    return columns


def count_dataset(
    cfg: Config, args: argparse.Namespace, regions: dict[str, int]
) -> DatasetFlops:
    """Average over the test images, with the exits of a checkpoint."""
    cfg.work_dir = cfg.work_dir + '/flops'
    runner = build_runner(cfg, 'none', ('test',), args.checkpoint)
    loader = runner.test_loop.dataloader
    return dataset_flops(runner.model, loader, args.convention, **regions)


def print_columns(columns: dict[str, dict], elastic: bool) -> None:
    """Print the table of all paths and components."""
    console = Console(markup=False)
    if elastic:  # no figure is cut off where the terminal is narrow
        console.width = max(console.width, 110)
        console.print(make_share_table(columns))
    else:
        console.print(make_table(columns))


def dataset_line(mean: DatasetFlops, elastic: bool) -> str:
    """Say in a line what the test images were, and where they ended."""
    line = f'{mean.images} test images, exit rate {mean.exit_rate:.4f}'
    if mean.windows > mean.images:
        line += f', {mean.windows} windows'
    if elastic:
        line += f', mean share of cells {mean.mean_share:.4f}'
    return line


def find_shape(args: argparse.Namespace, cfg: Config) -> tuple[int, int]:
    """Read height and width from ``--shape``, or take the config's."""
    if args.shape and len(args.shape) > 2:
        raise SystemExit(f'--shape takes H W or one side, got {args.shape}')
    shape = tuple(args.shape or default_shape(cfg))
    return shape if len(shape) == 2 else shape * 2


def main() -> None:
    args = parse_args()
    check_file(args.out, '--out')
    cfg = load_config(args.config, None, args.cfg_options)
    if args.eta is not None:
        set_eta(cfg, args.eta)
    if args.exit_rate and not has_exits(cfg):
        raise SystemExit(
            f'--exit-rate needs a model with early exits; the backbone of '
            f'{args.config} is {cfg.model.backbone.type}'
        )
    shape = find_shape(args, cfg)
    model = build_model(cfg)
    elastic = is_elastic(model)
    regions = dict(proposals=args.proposals, masks=args.masks)
    try:
        flops = model_flops(model, shape, args.convention, **regions)
        columns = make_columns(flops, args.exit_rate, elastic)
    except ValueError as err:
        raise SystemExit(f'get_flops: {err}') from None
    mean = None
    if args.checkpoint:
        mean = count_dataset(cfg, args, regions)
        columns['mean of the test images'] = mean.mean

    params = parameter_count(model)['']
    what = 'a window' if slides(model) else 'an image'
    print(
        f'{args.config}: {params / 1e6:.2f}M parameters\n'
        f'G multiply-adds of {what} of {shape[0]} x {shape[1]}, '
        f'convention {args.convention}'
    )
    if getattr(model, 'roi_head', None) is not None:
        print(f'{args.proposals} proposals, {args.masks} masks')
    print_columns(columns, elastic)
    if mean:
        print(dataset_line(mean, elastic))
    if args.out:
        report = dict(shape=flops.shape, convention=args.convention)
        if mean:
            report |= dict(
                images=mean.images,
                windows=mean.windows,
                exit_rate=mean.exit_rate,
                shapes=mean.shapes,
            )
            if elastic:
                report['mean_share'] = mean.mean_share
        report |= dict(parameters=params, flops=columns)
        mmengine.dump(report, args.out, indent=2)
        print(f'written to {args.out}')


if __name__ == '__main__':
    main()

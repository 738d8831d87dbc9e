"""Images a second over resolution and eta: backbone, +FPN, +full head.

Times a model beside the plain Vim, in turns in one run: forward passes on
different images that are on the device already, normalised and padded.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mmscope.benchmark.cases import DTYPES, FpsPlan, FpsRecord
from mmscope.benchmark.environment import check_device, environment
from mmscope.benchmark.inputs import check_size, read_images
from mmscope.benchmark.models import (
    FPNS,
    NAMED,
    SCOPES,
    named_config,
    prepare_model,
)
from mmscope.benchmark.official_vim import why_no_kernels
from mmscope.benchmark.plot import plot_fps
from mmscope.benchmark.report import fps_table, remarks, save
from mmscope.benchmark.run import bench_fps, count_steps
from mmscope.benchmark.score import add_scores
from mmscope.benchmark.timing import torch_threads
from mmscope.engine.launch import load_config
from mmscope.ops import scan_backends
from mmscope.utils.checkpoint import CheckpointError
from mmscope.utils.writable import check_file

PACKAGES = ('mmengine', 'mmcv', 'mmsegmentation', 'onedl-mmengine')
PACKAGES += ('onedl-mmcv', 'onedl-mmsegmentation', 'onedl-mmdetection')
# what is measured where nothing is said; on a CPU it takes minutes
EVERYWHERE = dict(
    eta=[0.7], scopes=list(SCOPES), exit_resolution=['fine', 'coarse']
)
DEFAULTS = dict(
    cpu=dict(
        models=['mambascope_t', 'vim_t'],
        resolutions=['512'],
        batch_size=[4],
        dtype='fp32',
        repeats=3,
    ),
    cuda=dict(
        models=['mambascope_t', 'vim_t', 'deit_t'],
        resolutions=['512', '640', '738', '1024', '1248'],
        batch_size=[64],
        dtype='bf16',
        repeats=20,
    ),
)


PRESETS = dict(
    figure6=dict(
        eta=[0.6, 0.7, 0.8],
        resolutions=['512', '640', '738', '1024', '1248'],
        batch_size=[64],
        scopes=['fpn'],
        exit_resolution=['fine'],
    )
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_cases(parser)
    add_measurement(parser)
    return parser.parse_args()


def add_cases(parser: argparse.ArgumentParser) -> None:
    """Add what is run: models, images, sizes, and how images exit."""
    add = parser.add_argument
    add('--eta', type=float, nargs='+', help='thresholds; default 0.7')
    add(
        '--resolutions',
        nargs='+',
        metavar='SIDE|HxW',
        help='512 640 738 1024 1248 are those of the paper',
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--models', nargs='+', help=f'of {", ".join(NAMED)}')
    which.add_argument('--configs', nargs='+', help='any configs instead')
    add(
        '--checkpoint',
        nargs='+',
        default=[],
        help='weights of the models, in their order; random for the rest',
    )
    add('--images', help='folder of images; default is sample data')
    add(
        '--force-exit',
        type=float,
        nargs='+',
        help='exact shares of each batch that are made to exit; default '
        '0.5 1\nwithout checkpoint, else none',
    )
    add(
        '--force-share',
        type=float,
        nargs='+',
        default=[],
        metavar='SHARE',
        help='shares of the cells, in (0, 1], that are refined in every '
        'image, so that\nnone exits: rows of all models that refine cells',
    )
    add('--batch-size', type=int, nargs='+')
    add('--num-batches', type=int, help='different batches that are timed')
    add('--dtype', choices=list(DTYPES))
    add('--device', help='cpu or cuda; default what there is')
    add('--scan-backend', default='auto', choices=['auto', *scan_backends()])
    add('--scopes', nargs='+', choices=SCOPES, help='default all')
    add(
        '--exit-resolution',
        nargs='+',
        choices=('fine', 'coarse'),
        help='grid on which exited images pass neck and head: stride 16 or '
        '32;\ndefault both',
    )
    add(
        '--fpn',
        choices=FPNS,
        default='config',
        help="config: the config's neck (Feature2Pyramid); full: and mmdet's "
        'FPN behind it',
    )


def add_measurement(parser: argparse.ArgumentParser) -> None:
    """Add how it is measured, and what is written."""
    add = parser.add_argument
    add('--protocol', choices=('vim',), help='vim: batch 64, fp32')
    add(
        '--preset',
        choices=list(PRESETS),
        help="figure6: what the paper's picture shows, three etas at five "
        'resolutions,\nbatch 64, backbone and FPN; other options change it',
    )
    add(
        '--evaluate',
        action='store_true',
        help="also test the models that have a checkpoint on their config's "
        'test set,\nat every eta',
    )
    add(
        '--no-cuda-graphs',
        action='store_true',
        help='launch every kernel, also where configs have CUDA graphs',
    )
    add('--repeats', type=int, help='turns of each')
    add('--threads', type=int, help="of torch on the CPU; default torch's")
    add(
        '--cpu-time',
        action='store_true',
        help='with --threads 1: time that the CPU spent, on a machine shared '
        'with others',
    )
    add('--no-memory', action='store_true', help='do not measure memory')
    add('--out', type=Path, help='json file to write')
    add('--plot', type=Path, help='picture to write')


def fill_in(args: argparse.Namespace) -> list[str]:
    """Choose what the user has not said; returns what was chosen."""
    if args.device is None:
        args.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    check_device(args.device)
    choices = EVERYWHERE | DEFAULTS[args.device.partition(':')[0]]
    official = why_no_kernels(args.device) is None
    if official and args.device != 'cpu':
        choices['models'] = [*choices['models'], 'official_vim_t']
    choices |= PRESETS.get(args.preset, {})
    single = 1 in (args.batch_size or choices['batch_size'])
    choices['num_batches'] = 16 if single else 4 if args.checkpoint else 1
    choices['force_exit'] = [] if args.checkpoint else [0.5, 1.0]
    if args.evaluate and not args.checkpoint:
        raise ValueError('--evaluate needs --checkpoint, weights to test')
    if args.protocol == 'vim':
        if args.dtype not in (None, 'fp32') or args.batch_size:
            raise ValueError(
                '--protocol vim is --batch-size 64 --dtype fp32; leave these '
                'out'
            )
        choices.update(batch_size=[64], dtype='fp32')
    if args.configs:
        args.models, choices['models'] = [], None
    chosen = []
    for name, value in choices.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
            shown = value if isinstance(value, list) else [value]
            flag = name.replace('_', '-')
            chosen.append(f'--{flag} {" ".join(map(str, shown))}')
    return chosen


def parse_size(text: str) -> tuple[int, int]:
    sides = text.lower().split('x')
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise ValueError(
            f'--resolutions takes sides such as 512, or HxW such as 512x768, '
            f'got {text!r}'
        )
    size = tuple(map(int, sides * 2))[:2]
    check_size(size)
    return size


def make_plan(args: argparse.Namespace) -> FpsPlan:
    plan = FpsPlan(
        etas=tuple(args.eta),
        forced=tuple(args.force_exit),
        shares=tuple(args.force_share),
        sizes=tuple(map(parse_size, args.resolutions)),
        batch_sizes=tuple(args.batch_size),
        scopes=tuple(args.scopes),
        exit_resolutions=tuple(args.exit_resolution),
        dtype=args.dtype,
        backend=args.scan_backend,
        device=args.device,
        batches=args.num_batches,
        repeats=args.repeats,
        cpu_time=args.cpu_time,
    )
    plan.check()
    return plan


def read_configs(args: argparse.Namespace) -> list[tuple]:
    """Name, config and checkpoint or None of every model."""
    configs = {name: named_config(name) for name in args.models}
    for path in args.configs or []:
        name = Path(path).stem
        configs[path if name in configs else name] = load_config(path)
    if args.no_cuda_graphs:
        for cfg in configs.values():
            cfg.model.backbone.pop('cuda_graphs', None)
    spare = len(configs) - len(args.checkpoint)
    if spare < 0:
        raise ValueError(
            f'--checkpoint has {len(args.checkpoint)} files for '
            f'{len(configs)} models'
        )
    checkpoints = [*args.checkpoint, *[None] * spare]
    return list(zip(configs, configs.values(), checkpoints, strict=True))


def say_where(facts: dict, images: str) -> str:
    gpu = facts.get('gpu', {})
    parts = [facts['device'], f'{facts["threads"]} threads']
    parts += [f'torch {facts["torch"]}', *(f'{k} {gpu[k]}' for k in gpu)]
    return (
        f'{", ".join(parts)}; {images}; FPS is of the median, × Vim of '
        'medians in the same turns'
    )


def run(args: argparse.Namespace, console: Console) -> None:
    chosen = fill_in(args)
    plan = make_plan(args)
    if chosen:
        console.print(f'chosen for {args.device}:', *chosen)
    # full float32, as the protocols that this is compared with
    torch.backends.cudnn.allow_tf32 = False
    images = read_images(args.images, max(plan.batch_sizes) * plan.batches)
    configs = read_configs(args)
    models = [
        prepare_model(name, cfg, args.fpn, checkpoint, args.device)
        for name, cfg, checkpoint in configs
    ]
    random = [m.name for m in models[len(args.checkpoint) :] if m.early_exit]
    if random:
        console.print(
            f'{", ".join(random)}: weights are random, so exits at an eta '
            'mean nothing; forced exits show the speed. --checkpoint gives '
            'weights.',
            style='yellow',
        )
    facts = environment(args.device, PACKAGES)
    settings = dict(
        asdict(plan),
        fpn=args.fpn,
        images=len(images),
        cuda_graphs='off' if args.no_cuda_graphs else 'config',
    )

    def keep(records: list[FpsRecord]) -> None:
        if args.out:
            save(args.out, dict(facts, settings=settings), records)

    columns = (
        *(TextColumn('{task.description}'), BarColumn()),
        *(TimeElapsedColumn(), TextColumn('left'), TimeRemainingColumn()),
    )
    with Progress(*columns, console=console) as progress:
        total = count_steps(models, plan, not args.no_memory)
        task = progress.add_task('Measuring', total=total)
        records = bench_fps(
            *(models, images, plan, not args.no_memory),
            step=lambda: progress.advance(task),
            keep=keep,
        )
    if args.evaluate:
        for name, cfg, checkpoint in configs:
            if checkpoint is not None:
                records = add_scores(records, name, cfg, checkpoint)
        keep(records)
    console.print(fps_table(records))
    for line in remarks(records):
        console.print(line)
    source = args.images or 'sample data'
    console.print(
        say_where(facts, f'{len(images)} different images from {source}')
    )
    if args.out:
        console.print(f'written to {args.out}')
    if args.plot:
        plot_fps(records, facts['device'], args.plot)
        console.print(f'drawn in {args.plot}')


def main() -> None:
    args = parse_args()
    check_file(args.out, '--out')
    check_file(args.plot, '--plot')
    wide = None if Console().is_terminal else 200
    console = Console(width=wide, markup=False)
    threads = args.threads or torch.get_num_threads()
    try:
        with torch_threads(threads):
            run(args, console)
    except (ValueError, FileNotFoundError, CheckpointError) as error:
        raise SystemExit(f'fps_bench: {error}') from None


if __name__ == '__main__':
    main()

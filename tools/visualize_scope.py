"""Draw what the coarse pass looked at, what it would refine, and the answers.

With 'val' in place of images, the validation set is drawn beside its ground
truth, and a plot counts for each eta how many images end at each stage.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import track

from mmscope.apis import ScopeInferencer, find_images
from mmscope.engine.launch import load_config
from mmscope.engine.options import add_cfg_options
from mmscope.evaluation.task_metric import find_task_metric
from mmscope.exits import collect_answers, count_stages, sweep_eta
from mmscope.exits.plots import plot_stages
from mmscope.exits.runs import build_exit_runner
from mmscope.utils.writable import check_folder
from mmscope.visualization import (
    ScopePicture,
    build_visualizer,
    draw_scope,
    picture_scope,
)

ETAS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', help="an image, a folder, or 'val'")
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--eta', type=float, help="confidence to exit; default the config's"
    )
    parser.add_argument(
        '--tau',
        type=float,
        help="score of cells worth refining; default the config's",
    )
    parser.add_argument(
        '--num-images', type=int, default=24, help='to draw, at most'
    )
    parser.add_argument('--out-dir', default='work_dirs/scope')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_folder(args.out_dir, '--out-dir')
    out_dir = Path(args.out_dir)
    if args.source == 'val':
        pictures, eta = draw_validation(args, out_dir)
    else:
        pictures, eta = draw_files(args)
    for picture in pictures:
        draw_scope([picture], eta, out_dir / f'{picture.name}.png')
    draw_scope(pictures, eta, out_dir / 'sheet.png')
    Console(markup=False).print(
        f'{len(pictures)} pictures and sheet.png, the surest first, written '
        f'to {out_dir}'
    )


def draw_files(args: argparse.Namespace) -> tuple[list[ScopePicture], float]:
    cfg = load_config(args.config, None, args.cfg_options)
    inferencer = ScopeInferencer(cfg, args.checkpoint, args.eta, tau=args.tau)
    source = Path(args.source)
    files = find_images(source) if source.is_dir() else [source]
    files = files[: args.num_images]
    items = (inferencer.read(file) for file in track(files, 'Images'))
    pictures = picture_scope(inferencer.model, items, build_visualizer(cfg))
    return pictures, inferencer.model.backbone.eta


def draw_validation(
    args: argparse.Namespace, out_dir: Path
) -> tuple[list[ScopePicture], float]:
    runner = build_exit_runner(
        args.config, args.checkpoint, args.out_dir, args.cfg_options
    )
    model, loader = runner.model, runner.test_loop.dataloader
    if args.tau is not None:
        model.backbone.tau = args.tau
    metric = find_task_metric(runner.test_evaluator.metrics)
    answers = collect_answers(model, loader, metric)['model']
    plot_stages(
        count_stages(answers, metric, ETAS),
        sweep_eta(answers, metric, ETAS),
        out_dir / 'stages.png',
    )
    dataset = loader.dataset
    runner.visualizer.dataset_meta = dataset.metainfo
    chosen = answers.from_sure_to_unsure(args.num_images)
    items = (dataset[i] for i in track(chosen, 'Images'))
    pictures = picture_scope(model, items, runner.visualizer, metric)
    return pictures, model.backbone.eta if args.eta is None else args.eta


if __name__ == '__main__':
    main()

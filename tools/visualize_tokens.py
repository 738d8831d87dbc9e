"""Draw which cells share a token, or have none, where tokens are reduced."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import track

from mmscope.datasets.subset import spread
from mmscope.engine.launch import build_runner, load_config
from mmscope.engine.options import add_cfg_options
from mmscope.visualization import draw_tokens, token_slots


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--num-images',
        type=int,
        default=6,
        help='images of the test set, evenly spread over it',
    )
    parser.add_argument('--out-dir', default='work_dirs/tokens')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.out_dir, args.cfg_options)
    runner = build_runner(cfg, 'none', ('test',), args.checkpoint)
    model, dataset = runner.model, runner.test_loop.dataloader.dataset
    chosen = spread(len(dataset), args.num_images)
    images = [
        token_slots(model, dataset[index]) for index in track(chosen, 'Images')
    ]
    path = Path(args.out_dir) / 'tokens.png'
    draw_tokens(images, model.backbone.patch_size, path)
    Console(markup=False).print(f'written to {path}')


if __name__ == '__main__':
    main()

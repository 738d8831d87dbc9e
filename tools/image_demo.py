"""Segment, detect or classify images; say which exit, and what is refined."""

import argparse
from pathlib import Path

import mmcv
import mmengine
from rich.console import Console
from rich.table import Table

from mmscope.apis import ScopeInferencer
from mmscope.utils.writable import check_folder
from mmscope.visualization import PictureNames, build_visualizer, draw_answer


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'images', nargs='+', help='images, or folders with all in them'
    )
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
        '--out-dir', default='work_dirs/image_demo', help='folder of pictures'
    )
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--device', help='where to run')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_folder(args.out_dir, '--out-dir')
    inferencer = ScopeInferencer(
        args.config,
        args.checkpoint,
        args.eta,
        args.batch_size,
        args.device,
        tau=args.tau,
    )
    visualizer = build_visualizer(inferencer.cfg)
    out_dir = Path(args.out_dir)
    name_of = PictureNames()
    table = Table('picture', 'exited', 'confidence', 'share')
    records = []
    for sample, image in inferencer.stream(args.images, progress=True):
        name = f'{name_of(sample.img_path)}.png'
        drawn = draw_answer(sample, image, visualizer)
        mmcv.imwrite(drawn[..., ::-1], str(out_dir / name))
        records.append(
            dict(
                image=sample.img_path,
                picture=name,
                exited=sample.exited,
                confidence=sample.exit_confidence,
                share=sample.refined_share,
            )
        )
        table.add_row(
            name,
            str(sample.exited),
            f'{sample.exit_confidence:.3f}',
            f'{sample.refined_share:.2f}',
        )
    mmengine.dump(records, out_dir / 'exits.json', indent=2)
    console = Console(markup=False)
    console.print(table)
    console.print(f'written to {out_dir}')


if __name__ == '__main__':
    main()

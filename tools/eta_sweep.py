"""What each threshold eta gives: exit rate, mIoU, plot, pictures."""

import argparse
from pathlib import Path

import mmengine
import numpy as np
from mmengine.config import DictAction
from rich.console import Console
from rich.table import Table

from mmscope.analysis import (
    collect_answers,
    exit_auroc,
    oracle_curve,
    random_curve,
    sweep_eta,
)
from mmscope.engine.launch import build_runner, load_checkpoint, load_config
from mmscope.visualization import (
    PictureCollector,
    draw_contact_sheet,
    plot_sweep,
)

ETAS = (0.0, *np.arange(0.5, 1.0, 0.025).round(3), 1.0)
RATES = np.linspace(0, 1, 21)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--eta', type=float, nargs='+', default=ETAS, help='thresholds'
    )
    parser.add_argument(
        '--out-dir', help='folder for sweep.json, sweep.png, pictures.png'
    )
    parser.add_argument(
        '--num-pictures', type=int, default=8, help='images in pictures.png'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='change settings of the config, as key=value',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, None, args.cfg_options)
    out_dir = Path(args.out_dir or Path(cfg.work_dir) / 'sweep')
    cfg.work_dir = str(out_dir)
    runner = build_runner(cfg, 'none', ('test',))
    load_checkpoint(runner, args.checkpoint)

    loader = runner.test_loop.dataloader
    pictures = PictureCollector(
        args.num_pictures, len(loader.dataset), runner.model.num_classes
    )
    answers = collect_answers(runner.model, loader, pictures)
    sweep = sweep_eta(answers, args.eta)
    random = random_curve(answers, RATES)
    oracle = oracle_curve(answers, RATES)
    auroc = exit_auroc(answers)

    table = Table('eta', 'exit rate', 'mIoU')
    for record in sweep:
        table.add_row(
            f'{record["eta"]:.3f}',
            f'{record["exit_rate"]:.3f}',
            f'{record["mIoU"]:.2f}',
        )
    Console().print(table)
    print(f'AUROC of "the coarse answer is as good": {auroc:.3f}')
    mmengine.dump(
        dict(sweep=sweep, random=random, oracle=oracle, auroc=auroc),
        out_dir / 'sweep.json',
        indent=2,
    )
    plot_sweep(sweep, random, oracle, out_dir / 'sweep.png')
    draw_contact_sheet(
        pictures.pictures,
        loader.dataset.metainfo['palette'],
        runner.model.backbone.eta,
        out_dir / 'pictures.png',
    )
    print(f'written to {out_dir}')


if __name__ == '__main__':
    main()

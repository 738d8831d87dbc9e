"""Images a second of exported graphs beside those of PyTorch, as ratios."""

import argparse
from importlib.util import find_spec
from pathlib import Path

import mmengine
from rich.console import Console

from mmscope.benchmark.timing import torch_threads
from mmscope.engine.launch import load_config
from mmscope.engine.options import add_cfg_options
from mmscope.export.bench import bench_export, table_of
from mmscope.export.build import model_to_export
from mmscope.utils.writable import check_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out_dir', help='folder of tools/export.py')
    parser.add_argument('config', help='config that was exported')
    parser.add_argument('checkpoint', help='weights that were exported')
    parser.add_argument(
        '--batch-sizes', type=int, nargs='+', default=[1, 8], help='images'
    )
    parser.add_argument(
        '--threads', type=int, default=1, help='threads of both'
    )
    parser.add_argument('--repeats', type=int, default=5, help='turns')
    parser.add_argument('--out', help='json file to write')
    add_cfg_options(
        parser, 'settings of the config that were changed, as key=value'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_file(args.out, '--out')
    folder = Path(args.out_dir)
    served = {'onnxruntime': (folder, 'onnxruntime')}
    if find_spec('openvino'):
        served['openvino'] = folder, 'openvino'
    if (folder / 'int8').is_dir():
        served['onnxruntime, int8'] = folder / 'int8', 'onnxruntime'
    try:
        cfg = load_config(args.config, options=args.cfg_options)
        with torch_threads(args.threads):
            rows = bench_export(
                served,
                lambda share: model_to_export(cfg, args.checkpoint, share),
                args.batch_sizes,
                args.threads,
                args.repeats,
            )
    except (FileNotFoundError, RuntimeError, ValueError) as err:
        raise SystemExit(f'bench_export: {err}') from None
    Console(markup=False).print(table_of(rows))
    if args.out:
        mmengine.dump(rows, args.out, indent=2)


if __name__ == '__main__':
    main()

"""Write a trained model as ONNX graphs: coarse pass, exit, fine pass."""

import argparse
from pathlib import Path

from mmscope.benchmark.build import default_shape
from mmscope.engine.launch import load_config
from mmscope.engine.options import add_cfg_options
from mmscope.export import export_onnx
from mmscope.export.build import classes_of, model_to_export
from mmscope.export.quantise import quantise
from mmscope.utils.writable import check_folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='file of the weights')
    parser.add_argument(
        '--out-dir', required=True, help='folder to write the graphs to'
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs='+',
        help="image height and width, or one side; default is the config's "
        'crop size',
    )
    parser.add_argument(
        '--alpha',
        type=float,
        help="share of the cells to refine; default the config's, or the "
        'largest of several',
    )
    parser.add_argument(
        '--eta',
        type=float,
        help='confidence from which an image exits, a default that may be '
        "changed when serving; default the config's",
    )
    parser.add_argument(
        '--int8',
        action='store_true',
        help='also write OUT_DIR/int8, with linear layers in int8',
    )
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_folder(args.out_dir, '--out-dir')
    try:
        cfg = load_config(args.config, options=args.cfg_options)
        size = tuple(args.size or default_shape(cfg))
        size = size * 2 if len(size) == 1 else size
        model = model_to_export(cfg, args.checkpoint, args.alpha, args.eta)
        record = export_onnx(model, args.out_dir, size, classes_of(cfg))
        if args.int8:
            quantise(args.out_dir, Path(args.out_dir) / 'int8')
    except (FileNotFoundError, RuntimeError, ValueError) as err:
        raise SystemExit(f'export: {err}') from None
    print(
        f'{args.out_dir}: {record.task} of {size[0]} x {size[1]}, share '
        f'{record.share:g}, eta {record.eta:g} by {record.exit_score}, opset '
        f'{record.opset}'
    )


if __name__ == '__main__':
    main()

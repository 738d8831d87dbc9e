"""Convert an official Vim checkpoint to mmscope's names, or back."""

import argparse

from mmscope.utils.checkpoint import CHOICES
from mmscope.utils.vim_checkpoint import convert_vim_checkpoint
from mmscope.utils.writable import check_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'src', help="Vim's checkpoint (midclstok); with --to-vim, ours"
    )
    parser.add_argument('dst', help='checkpoint to write')
    parser.add_argument(
        '--to-vim', action='store_true', help="write Vim's names"
    )
    parser.add_argument(
        '--classifier',
        action='store_true',
        help='write a whole classifier of configs/imagenet, with the head',
    )
    parser.add_argument(
        '--weights',
        choices=CHOICES,
        default='model',
        help="'ema' takes averaged weights, which Vim-B's accuracy is of",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_file(args.dst, 'dst')
    report = convert_vim_checkpoint(
        args.src, args.dst, args.to_vim, args.classifier, args.weights
    )
    print(report)
    print(f'written to {args.dst}')


if __name__ == '__main__':
    main()

"""Convert an official Vim checkpoint to mmscope's names."""

import argparse

from mmscope.utils.checkpoint import convert_vim_checkpoint


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('src', help="Vim's checkpoint (midclstok)")
    parser.add_argument('dst', help='checkpoint to write')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    print(convert_vim_checkpoint(args.src, args.dst))
    print(f'written to {args.dst}')


if __name__ == '__main__':
    main()

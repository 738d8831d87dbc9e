"""Split miniImageNet inside its classes, for supervised classification."""

import argparse

from mmscope.datasets import write_mini_imagenet
from mmscope.utils.writable import check_folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'root',
        help='folder of train.csv, val.csv and test.csv; gets meta/train.txt, '
        'meta/val.txt and meta/classes.txt',
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        '--images',
        help='folder of the images that the csv files name; default '
        'ROOT/images',
    )
    source.add_argument(
        '--imagenet',
        help='training folder of ImageNet-1K instead: the csv files then say '
        'the classes alone, and the images are drawn',
    )
    parser.add_argument(
        '--per-class', type=int, default=600, help='images of a class'
    )
    parser.add_argument(
        '--num-val',
        type=int,
        default=100,
        help='how many of them are for validation',
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--force', action='store_true', help='replace another split'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_folder(args.root, 'root')
    try:
        counts = write_mini_imagenet(**vars(args))
    except (ValueError, OSError) as err:
        raise SystemExit(f'error: {err}') from None
    text = ' and '.join(f'{number} {name}' for name, number in counts.items())
    print(f'{args.root}/meta: {text} images of 100 classes')


if __name__ == '__main__':
    main()

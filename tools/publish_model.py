"""Write the weights of a training's checkpoint alone, to give to others."""

import argparse
import hashlib
from pathlib import Path

from mmscope.utils.checkpoint import CHOICES, CheckpointError
from mmscope.utils.publish import publish_checkpoint
from mmscope.utils.writable import check_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('src', help='checkpoint of a training')
    parser.add_argument('dst', help='checkpoint to write')
    parser.add_argument(
        '--weights',
        choices=CHOICES,
        default='model',
        help="'ema' takes averages, 'raw' what they are averages of",
    )
    parser.add_argument(
        '--half', action='store_true', help='keep weights in 16 bits'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_file(args.dst, 'dst')
    try:
        size = publish_checkpoint(args.src, args.dst, args.weights, args.half)
    except (CheckpointError, OSError) as err:
        raise SystemExit(f'publish_model: {err}') from None
    digest = hashlib.sha256(Path(args.dst).read_bytes()).hexdigest()
    print(f'written to {args.dst}: {size / 1e6:.2f} MB, sha256 {digest}')


if __name__ == '__main__':
    main()

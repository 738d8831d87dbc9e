"""Make sample data, in ADE20K's and COCO's layout."""

import argparse

from mmscope.datasets import draw_contact_sheet, write_sample_data
from mmscope.utils.writable import check_file, check_folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', help='folder to make')
    parser.add_argument(
        '--num-train', type=int, default=960, help='training pictures'
    )
    parser.add_argument(
        '--num-val', type=int, default=128, help='validation pictures'
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        default=(128, 224),
        metavar=('MIN', 'MAX'),
        help='smallest and largest side of a picture in pixels',
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--force',
        action='store_true',
        help='replace sample data made earlier; other files are kept',
    )
    parser.add_argument(
        '--contact-sheet',
        metavar='PATH',
        help='picture of validation images, easy to hard, with their masks',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_folder(args.root, 'root')
    check_file(args.contact_sheet, '--contact-sheet')
    try:
        summary = write_sample_data(
            args.root,
            num_train=args.num_train,
            num_val=args.num_val,
            size=args.size,
            seed=args.seed,
            force=args.force,
        )
        if args.contact_sheet:
            draw_contact_sheet(args.root, args.contact_sheet)
    except (ValueError, OSError, RuntimeError) as err:
        raise SystemExit(f'error: {err}') from None
    state = 'made' if summary['written'] else 'already there'
    counts = ', '.join(f'{n} {name}' for name, n in summary['counts'].items())
    print(f'{summary["root"]}: {state} ({counts} pictures)')


if __name__ == '__main__':
    main()

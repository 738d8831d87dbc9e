"""What the values in COCO's json files must be."""

import math
from collections.abc import Callable, Iterable
from numbers import Real
from pathlib import Path

from .problems import Problem

# what OpenCV reads at most
LONGEST, LARGEST = 2**20, 2**30


def check_entries(path: Path, name: str, entries: object) -> list[dict]:
    """Refuse what is no list of dicts, ids that come twice, and odd values.

    A value that is missing or empty is left to others.

    Args:
        path: The file, for the error.
        name: 'images', 'annotations' or 'categories'.
        entries: What the file has by that name.

    Returns:
        The entries.

    Raises:
        ValueError: the first place is named with a fix.
    """
    if not isinstance(entries, list):
        raise ValueError(
            Problem(
                f'{path}: {name} is {_short(entries)}',
                f'{name} must be a list of dicts',
                'write it as one, or choose another ann_file',
            )
        )
    places: dict[int | str, int] = {}
    for index, one in enumerate(entries):
        where = f'{path}: {name}[{index}]'
        if not isinstance(one, dict):
            raise ValueError(
                Problem(
                    f'{where} is {_short(one)}',
                    f'{name} must be a list of dicts',
                    'remove it, or write it as a dict',
                )
            )
        _check_values(where, one)
        if one.get('id') not in ([], None):
            _check_id(where, one['id'], places)
            first = places.setdefault(one['id'], index)
            if first != index:
                raise ValueError(
                    Problem(
                        f'{where} has the id {one["id"]!r} of {name}[{first}]',
                        'each needs an id of its own, as the last one would '
                        'replace the others',
                        'number them anew',
                    )
                )
    return entries


def _check_values(where: str, one: dict) -> None:
    """Refuse an entry with a value of another kind than its rule's."""
    for key, (allowed, rule) in RULES.items():
        value = one.get(key)
        if value not in ([], None) and not allowed(value):
            raise ValueError(
                Problem(
                    f'{where} (id {_short(one.get("id"))}) has '
                    f'{key}={_short(value)}',
                    f'{key} must be {rule}',
                    'correct it, or remove the entry',
                )
            )


def _check_id(where: str, own: int | str, others: Iterable[int | str]) -> None:
    """Refuse an id of another type than the first of the others."""
    kind = type(next(iter(others), own))
    if not isinstance(own, kind):
        raise ValueError(
            Problem(
                f'{where} has the id {own!r}, others have {kind.__name__}',
                'ids are all whole numbers or all strings, to be sorted',
                'number them anew',
            )
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 80 else f'{text[:80]}...'


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return (
        isinstance(value, Real)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def _is_side(value: object) -> bool:
    return _is_number(value) and 0 < value <= LONGEST and value == int(value)


def _is_box(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(map(_is_number, value))
    )


def _is_outline(value: object) -> bool:
    """Polygons, or what may be an RLE."""
    if isinstance(value, list):
        return all(
            isinstance(polygon, list)
            and len(polygon) >= 6
            and len(polygon) % 2 == 0
            and all(map(_is_number, polygon))
            for polygon in value
        )
    return isinstance(value, dict) and _is_rle(value)


def _is_rle(value: dict) -> bool:
    """Whether an RLE may be one; that it decodes is for check_masks_fit."""
    size, counts = value.get('size'), value.get('counts')
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(map(_is_side, size))
    ):
        return False
    if isinstance(counts, list):
        whole = all(isinstance(n, int) and n >= 0 for n in counts)
        return whole and sum(counts) == size[0] * size[1]
    return isinstance(counts, str) and counts.isascii()


def check_masks_fit(
    path: Path, images: Iterable[dict], objects: Iterable[dict]
) -> None:
    """Refuse an RLE that is not of its image's size, or does not fill it.

    Nothing is decoded, which takes a byte for each pixel that an RLE claims,
    before that size is known to be an image's.

    Args:
        path: The file, for the error.
        images: Its images, checked by :func:`check_entries`.
        objects: Its annotations, likewise; those of no image are left to
            others.

    Raises:
        ValueError: the first place is named with a fix.
    """
    sizes = {one['id']: (one['height'], one['width']) for one in images}
    for index, one in enumerate(objects):
        rle, size = one.get('segmentation'), sizes.get(one['image_id'])
        if not isinstance(rle, dict) or size is None:
            continue
        fits = tuple(rle['size']) == size and size[0] * size[1] <= LARGEST
        if not fits or not _decodes(rle):
            raise ValueError(
                Problem(
                    f'{path}: annotations[{index}] (id {_short(one["id"])}) '
                    f'has segmentation={_short(rle)}, and its image is '
                    f'{size[0]} x {size[1]} (H x W)',
                    'an RLE dict(size=[height, width], counts=...) has the '
                    f'size of its image, fills it, and has {LARGEST} pixels '
                    'at most',
                    'correct it, or remove the entry',
                )
            )


def _decodes(rle: dict) -> bool:
    if isinstance(rle['counts'], list):
        return True  # they have been summed
    from pycocotools import mask  # only detection has it

    try:
        mask.decode(dict(size=rle['size'], counts=rle['counts'].encode()))
    except ValueError:
        return False
    return True


RULES: dict[str, tuple[Callable[[object], bool], str]] = {
    'id': (_is_id, 'a whole number or a string'),
    'image_id': (_is_id, 'a whole number or a string'),
    'category_id': (_is_id, 'a whole number or a string'),
    'file_name': (lambda value: isinstance(value, str), 'a string'),
    'height': (_is_side, f'a whole number from 1 to {LONGEST}'),
    'width': (_is_side, f'a whole number from 1 to {LONGEST}'),
    'bbox': (_is_box, '[x, y, width, height], four finite numbers'),
    'area': (_is_number, 'a finite number'),
    'iscrowd': (lambda value: value in (0, 1), '0 or 1'),
    'segmentation': (
        _is_outline,
        'outlines [[x0, y0, x1, y1, x2, y2, ...]] of three points or more, '
        'or an RLE dict(size=[height, width], counts=...) that fills its size',
    ),
}

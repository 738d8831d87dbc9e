"""A contact sheet of the sample data, to see what is in it."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ..subset import spread
from .layouts import read_meta
from .shapes import SAMPLE_PALETTE

MARGIN, CAPTION = 8, 20
PAPER, INK = 255, (60, 60, 60)


def draw_contact_sheet(
    root: str | Path,
    out_path: str | Path,
    split: str = 'validation',
    columns: int = 6,
    rows: int = 5,
) -> Path:
    """Draw pictures from easy to hard, each beside its mask.

    Args:
        root: Sample data, as ``write_sample_data`` left it.
        out_path: Picture to write; the suffix decides on the format.
        split: 'training' or 'validation'.
        columns: Picture pairs in a row.
        rows: Rows; at most columns * rows pictures, evenly chosen.

    Returns:
        ``out_path``.
    """
    root, out_path = Path(root), Path(out_path)
    meta = read_meta(root)
    if meta is None:
        raise FileNotFoundError(
            f'{root} holds no sample data: write_sample_data() makes it'
        )
    if split not in meta['images']:
        raise ValueError(
            f'split must be one of {sorted(meta["images"])}, got {split!r}'
        )
    if min(columns, rows) < 1:
        raise ValueError(
            f'columns and rows must be at least 1, got {columns} and {rows}'
        )
    facts = meta['images'][split]
    names = sorted(facts, key=lambda name: facts[name]['difficulty'])
    tiles = [
        _tile(root, split, names[i], facts[names[i]], meta['size'][1])
        for i in spread(len(names), columns * rows)
    ]
    sheet = np.concatenate(list(_lines(tiles, columns)))
    out_path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(out_path), sheet[..., ::-1]):
        raise OSError(f'cannot write {out_path}')
    return out_path


def _tile(
    root: Path, split: str, name: str, facts: dict, side: int
) -> np.ndarray:
    """Draw a picture, its mask beside it and a caption below, (h, w, 3)."""
    image = cv2.imread(str(root / 'images' / split / name))[..., ::-1]
    mask_name = str(Path(name).with_suffix('.png'))
    labels = cv2.imread(
        str(root / 'annotations' / split / mask_name), cv2.IMREAD_GRAYSCALE
    )
    # unlabelled pixels are black; the picture shows through the rest
    colours = np.array([(0, 0, 0), *SAMPLE_PALETTE])[labels]
    overlay = (0.35 * image + 0.65 * colours).astype(np.uint8)
    tile = np.full(
        (side + CAPTION + MARGIN, 2 * side + 3 * MARGIN, 3), PAPER, np.uint8
    )
    for index, picture in enumerate((image, overlay)):
        height, width = picture.shape[:2]
        # the two meet in the middle, whatever their width
        left = tile.shape[1] // 2 + (1 if index else -width - 1)
        tile[side - height : side, left : left + width] = picture
    text = (
        f'difficulty {facts["difficulty"]:.2f}, objects {facts["num_objects"]}'
    )
    size, _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    cv2.putText(
        tile,
        text,
        ((tile.shape[1] - size[0]) // 2, side + CAPTION - 4),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.45,
        INK,
        1,
        cv2.LINE_AA,
    )
    return tile


def _lines(tiles: list[np.ndarray], columns: int) -> Iterator[np.ndarray]:
    """Join tiles into lines; the last one is filled up with paper."""
    blank = np.full_like(tiles[0], PAPER)
    columns = min(columns, len(tiles))
    for start in range(0, len(tiles), columns):
        line = tiles[start : start + columns]
        line += [blank] * (columns - len(line))
        yield np.concatenate(line, axis=1)

"""The sample data on disk: one set of pictures in ADE20K's and COCO's layout.

ROOT/images/{training,validation}/*.jpg       ADE20K
ROOT/annotations/{training,validation}/*.png
ROOT/{train2017,val2017}/*.jpg                COCO: the same files
ROOT/annotations/instances_{train,val}2017.json
ROOT/meta.json
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .grounds import PHOTOS
from .scenes import Scene, make_scene
from .shapes import SAMPLE_CLASSES, SAMPLE_PALETTE

GENERATOR = 'mmscope sample data'
VERSION = 1
META = 'meta.json'
JPEG_QUALITY = 95
# ADE20K's name of a split -> COCO's
COCO_SPLITS = {'training': 'train', 'validation': 'val'}


def instances_file(split: str) -> str:
    """Name the COCO annotations of a split, relative to the root."""
    return f'annotations/instances_{COCO_SPLITS[split]}2017.json'


def picture_files(split: str, index: int) -> tuple[str, str, str]:
    """Name a picture, its mask and its name for COCO, relative to the root."""
    coco = COCO_SPLITS[split]
    name = f'{coco}_{index + 1:06d}'
    return (
        f'images/{split}/{name}.jpg',
        f'annotations/{split}/{name}.png',
        f'{coco}2017/{name}.jpg',
    )


def layout_files(counts: dict[str, int]) -> set[str]:
    """List every file of a set, relative to its root, by pictures a split."""
    files = {META}
    for split, count in counts.items():
        files.add(instances_file(split))
        for index in range(count):
            files.update(picture_files(split, index))
    return files


def write_layouts(
    root: Path,
    counts: dict[str, int],
    size: tuple[int, int],
    seed: int,
    advance: Callable[[], object],
) -> None:
    """Draw and write all pictures with their annotations.

    Args:
        root: Empty folder to write to.
        counts: Number of pictures of each split.
        size: Smallest and largest side in pixels.
        seed: Seed of the whole set.
        advance: Called after each picture.
    """
    described: dict[str, dict] = {}
    for split, count in counts.items():
        coco = _empty_coco()
        described[split] = {}
        for index in range(count):
            scene = make_scene(split, index, size, seed)
            files = [root / file for file in picture_files(split, index)]
            _write_picture(scene, *files)
            _add_to_coco(coco, files[0].name, scene)
            described[split][files[0].name] = _describe(scene)
            advance()
        _write_json(root / instances_file(split), coco)
    # last: a folder with this file is complete
    meta = {
        'generator': GENERATOR,
        'version': VERSION,
        'counts': counts,
        'size': size,
        'seed': seed,
        'classes': SAMPLE_CLASSES,
        'palette': SAMPLE_PALETTE,
        'photographs': PHOTOS,
        'images': described,
    }
    _write_json(root / META, meta)


def read_meta(root: Path) -> dict[str, Any] | None:
    """Read a set's meta file; None if there is none of this generator."""
    try:
        meta = json.loads((root / META).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(meta, dict) or meta.get('generator') != GENERATOR:
        return None
    return meta


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where that is not possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, target, follow_symlinks=False)


def mask_to_rle(mask: np.ndarray) -> dict[str, list[int]]:
    """Encode a mask, (H, W) bool, as COCO's uncompressed run lengths."""
    # columns first, and the first run is always one of zeros
    pixels = mask.ravel(order='F')
    changes = np.flatnonzero(np.diff(pixels, prepend=False))
    runs = np.diff(changes, prepend=0, append=pixels.size)
    return {'size': list(mask.shape), 'counts': runs.tolist()}


def mask_to_polygon(mask: np.ndarray) -> list[list[float]] | None:
    """Trace a mask, (H, W) bool, as a polygon that rasterises to it again.

    Returns:
        COCO's list of one outline x0, y0, x1, y1, ...; None for a mask with
        holes or of several pieces, which needs run lengths.
    """
    from skimage.measure import find_contours

    outlines = find_contours(np.pad(mask, 1).astype(float), 0.5)
    if len(outlines) != 1:
        return None
    # the last point repeats the first; -1 for the padding, + 0.5 because
    # COCO counts from the corner of the first pixel
    points = outlines[0][:-1, ::-1] - 0.5
    return [points.ravel().tolist()]


def describe_objects(scene: Scene) -> Iterator[dict[str, Any]]:
    """Describe the visible part of every object in COCO's terms."""
    objects = zip(scene.classes, scene.crowds, strict=True)
    for number, (label, crowd) in enumerate(objects, start=1):
        mask = scene.objects == number
        rows, columns = (
            np.flatnonzero(mask.any(1)),
            np.flatnonzero(mask.any(0)),
        )
        outline = None if crowd else mask_to_polygon(mask)
        yield {
            'category_id': int(label),
            'iscrowd': int(crowd),
            'area': int(mask.sum()),
            'bbox': [
                int(columns[0]),
                int(rows[0]),
                int(columns[-1] - columns[0] + 1),
                int(rows[-1] - rows[0] + 1),
            ],
            'segmentation': outline or mask_to_rle(mask),
        }


def _empty_coco() -> dict[str, list]:
    return {
        'info': {'description': GENERATOR, 'version': str(VERSION)},
        'licenses': [],
        'images': [],
        'annotations': [],
        'categories': [
            {'id': index, 'name': name, 'supercategory': 'shape'}
            for index, name in enumerate(SAMPLE_CLASSES)
            if index
        ],
    }


def _add_to_coco(coco: dict[str, list], file_name: str, scene: Scene) -> None:
    """Append a picture and its objects, in the order of painting."""
    image_id = len(coco['images']) + 1
    height, width = scene.objects.shape
    coco['images'].append(
        {
            'id': image_id,
            'file_name': file_name,
            'height': height,
            'width': width,
        }
    )
    for annotation in describe_objects(scene):
        coco['annotations'].append(
            {
                'id': len(coco['annotations']) + 1,
                'image_id': image_id,
                **annotation,
            }
        )


def _describe(scene: Scene) -> dict[str, float]:
    sizes = np.bincount(scene.objects.ravel())[1:]
    return {
        'difficulty': round(scene.difficulty, 4),
        'num_objects': len(sizes),
        'mean_object_area': round(float(sizes.mean()), 1),
    }


def _write_picture(
    scene: Scene, image: Path, mask: Path, coco_image: Path
) -> None:
    bgr = np.ascontiguousarray(scene.image[..., ::-1])
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    for path, pixels, options in (
        (image, bgr, quality),
        (mask, scene.mask(), []),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        # encoded here, because cv2.imwrite reports no full disk
        path.write_bytes(cv2.imencode(path.suffix, pixels, options)[1])
    link_or_copy(image, coco_image)


def _write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, separators=(',', ':')) + '\n')

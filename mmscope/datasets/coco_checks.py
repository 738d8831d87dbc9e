"""What COCO's datasets and metrics read in a json file, and need there."""

import json
from collections.abc import Iterable
from pathlib import Path

from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset

from .coco_values import check_entries, check_masks_fit
from .problems import Problem

IMAGE_KEYS = ('id', 'file_name', 'height', 'width')
CATEGORY_KEYS = ('id', 'name')
# what mmdet's CocoDataset reads of an object, and pycocotools to judge it
OBJECT_KEYS = ('id', 'image_id', 'category_id', 'bbox', 'area')
JUDGED_KEYS = (*OBJECT_KEYS, 'iscrowd')
FIXES = {
    'area': "that of its mask or box, a['bbox'][2] * a['bbox'][3]",
    'iscrowd': '0, or 1 for a crowd',
    'segmentation': (
        'its outline [[x0, y0, x1, y1, ...]], or judge boxes alone, metric='
        "'bbox'"
    ),
    'height': "that of the image's file",
    'width': "that of the image's file",
}


def check_coco(path: Path) -> dict:
    """Refuse a file that mmdet's CocoDataset cannot read.

    Args:
        path: Annotation file; it may have no objects at all.

    Returns:
        Its content.

    Raises:
        ValueError: it is no json, or lacks something; the first place is
            named with a fix.
    """
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as err:
        raise ValueError(
            Problem(
                f'{path} is not valid json: {err}',
                'annotations are',
                'the file is corrupt, restore it',
            )
        ) from err
    keys = ('images', 'categories')
    lists = content if isinstance(content, dict) else {}
    if missing := [key for key in keys if key not in lists]:
        raise ValueError(
            Problem(
                f'{path} is no COCO annotation file, it lacks {missing}',
                f'it needs the lists {keys}',
                'choose another ann_file',
            )
        )
    for name, entries, needed in (
        ('images', content['images'], IMAGE_KEYS),
        ('categories', content['categories'], CATEGORY_KEYS),
        ('annotations', _objects(content), OBJECT_KEYS),
    ):
        _require(path, name, check_entries(path, name, entries), needed)
    check_masks_fit(path, content['images'], _objects(content))
    return content


def check_truth(metric: ConfigDict) -> dict:
    """Refuse a file that pycocotools cannot judge predictions by.

    Args:
        metric: Config of a CocoMetric with ``ann_file``.

    Returns:
        Its content.

    Raises:
        ValueError: an image or an object lacks something.
    """
    path = Path(metric.ann_file)
    content = check_coco(path)
    if not content['images']:
        raise ValueError(
            Problem(
                f'{path}: images is []',
                'predictions are judged image by image',
                'choose another ann_file, or list its images',
            )
        )
    if metric.get('format_only'):
        return content
    objects = _objects(content)
    _require(path, 'annotations', objects, JUDGED_KEYS)
    if 'segm' in metric.get('metric', ()):
        judged = (one for one in objects if not one.get('ignore'))
        _require(path, 'annotations', judged, ('segmentation',))
    return content


def check_images(name: str, content: dict, dataset: BaseDataset) -> None:
    """Refuse images that a file does not know, or that come twice.

    Args:
        name: Name of the file in the config.
        content: Content of the file.
        dataset: Dataset whose predictions it judges.

    Raises:
        ValueError: pycocotools would fail, or count an image twice.
    """
    known = {image['id'] for image in content['images']}
    seen: dict[object, str] = {}
    for info in map(dataset.get_data_info, range(len(dataset))):
        number, path = info['img_id'], info['img_path']
        if number not in known:
            raise ValueError(
                Problem(
                    f'{name} does not know img_id {number} of the dataset, '
                    f'{path}',
                    'it judges images that it has',
                    'name the annotation file of the dataset itself, or, of '
                    'several datasets, one file with the images of all',
                )
            )
        if number in seen:
            raise ValueError(
                Problem(
                    f'img_id {number} comes twice in the dataset, '
                    f'{seen[number]} and {path}',
                    f'{name} judges each once',
                    'give images ids of their own, and repeat none',
                )
            )
        seen[number] = path


def _objects(content: dict) -> list[dict]:
    return content.get('annotations', [])


def _require(
    path: Path, name: str, entries: Iterable[dict], keys: tuple[str, ...]
) -> None:
    """Refuse entries of a list that lack a key, or whose list is empty."""
    for index, one in enumerate(entries):
        for key in keys:
            if key not in one or one[key] in ([], None):
                fix = f', {FIXES[key]}' if key in FIXES else ''
                state = 'has no' if key not in one else 'has an empty'
                raise ValueError(
                    Problem(
                        f'{path}: {name}[{index}] (id {one.get("id")}) '
                        f'{state} {key!r}',
                        f'each needs {list(keys)}',
                        f'add it{fix}',
                    )
                )

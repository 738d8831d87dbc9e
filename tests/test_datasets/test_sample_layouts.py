"""The sample data as the libraries that are to train on it see it."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations as LoadMask
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmscope.datasets import SAMPLE_CLASSES, SAMPLE_PALETTE
from mmscope.datasets.sample.layouts import (
    describe_objects,
    mask_to_polygon,
    mask_to_rle,
)
from mmscope.datasets.sample.scenes import Scene

SPLITS = {'training': 'train', 'validation': 'val'}
METAINFO = dict(classes=SAMPLE_CLASSES, palette=SAMPLE_PALETTE)


@pytest.fixture(params=SPLITS)
def split(request: pytest.FixtureRequest) -> str:
    return request.param


def load_masks(root: Path, split: str) -> dict[str, np.ndarray]:
    """Read a split as ADE20K: 255 or an index into SAMPLE_CLASSES."""
    dataset = BaseSegDataset(
        data_root=str(root),
        data_prefix=dict(
            img_path=f'images/{split}', seg_map_path=f'annotations/{split}'
        ),
        img_suffix='.jpg',
        seg_map_suffix='.png',
        reduce_zero_label=True,
        metainfo=METAINFO,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type=LoadMask),
        ],
    )
    masks = {}
    for sample in dataset:
        mask = sample['gt_seg_map']
        assert sample['img'].shape == (*mask.shape, 3)
        masks[Path(sample['img_path']).name] = mask
    return masks


def load_coco(root: Path, split: str) -> COCO:
    name = f'instances_{SPLITS[split]}2017.json'
    return COCO(root / 'annotations' / name)


def paint(coco: COCO, image: dict) -> np.ndarray:
    """Paint a picture's instances, in their order, on the background."""
    painted = np.zeros((image['height'], image['width']), dtype=int)
    for annotation in coco.imgToAnns[image['id']]:
        painted[coco.annToMask(annotation) == 1] = annotation['category_id']
    return painted


def test_every_class_has_its_own_colour() -> None:
    assert len(set(SAMPLE_PALETTE)) == len(SAMPLE_CLASSES) == 8
    assert SAMPLE_CLASSES[0] == 'background'


def test_masks_hold_the_classes_and_some_ignored_pixels(
    sample_root: Path, split: str
) -> None:
    masks = load_masks(sample_root, split).values()
    found = set().union(*(np.unique(mask).tolist() for mask in masks))
    # few pictures show only some of the classes
    assert found <= {*range(len(SAMPLE_CLASSES)), 255}
    assert found >= {0, 255}
    assert len(found) >= len(SAMPLE_CLASSES)


def test_both_layouts_have_the_same_pictures(
    sample_root: Path, split: str
) -> None:
    ade = sorted((sample_root / 'images' / split).iterdir())
    coco = sorted((sample_root / f'{SPLITS[split]}2017').iterdir())
    assert [path.name for path in ade] == [path.name for path in coco]
    for one, other in zip(ade, coco, strict=True):
        # one file of two names: pictures are not on the disk twice
        assert one.samefile(other)


def test_painted_instances_are_the_mask(sample_root: Path, split: str) -> None:
    masks = load_masks(sample_root, split)
    coco = load_coco(sample_root, split)
    assert len(coco.imgs) == len(masks)
    for image in coco.imgs.values():
        mask, painted = masks[image['file_name']], paint(coco, image)
        labelled = mask != 255
        np.testing.assert_array_equal(painted[labelled], mask[labelled])
        assert not painted[~labelled].any()


def test_areas_and_boxes_are_those_of_the_masks(
    sample_root: Path, split: str
) -> None:
    coco = load_coco(sample_root, split)
    for annotation in coco.anns.values():
        rle = coco.annToRLE(annotation)
        assert annotation['area'] == coco_mask.area(rle)
        assert annotation['bbox'] == coco_mask.toBbox(rle).tolist()


def test_there_are_polygons_run_lengths_and_crowds(
    sample_root: Path, split: str
) -> None:
    annotations = load_coco(sample_root, split).anns.values()
    crowds = [a for a in annotations if a['iscrowd']]
    kinds = {type(a['segmentation']) for a in annotations}
    assert kinds == {list, dict}
    assert 0 < len(crowds) < len(annotations) / 10
    assert all(isinstance(a['segmentation'], dict) for a in crowds)


def test_a_crowd_of_one_piece_has_run_lengths() -> None:
    objects = np.zeros((5, 6), dtype=np.int32)
    objects[1:3, 1:3], objects[3:, 4:] = 1, 2
    scene = Scene(
        image=np.zeros((5, 6, 3), dtype=np.uint8),
        objects=objects,
        classes=np.array([3, 3]),
        crowds=np.array([True, False]),
        framed=False,
        difficulty=1.0,
    )
    crowd, single = describe_objects(scene)
    assert isinstance(crowd['segmentation'], dict)
    assert isinstance(single['segmentation'], list)


def test_mmdet_reads_the_instances(sample_root: Path, split: str) -> None:
    # here, so that the other tests run without mmdet's own requirements
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.transforms import LoadAnnotations

    coco = load_coco(sample_root, split)
    dataset = CocoDataset(
        data_root=str(sample_root),
        ann_file=f'annotations/instances_{SPLITS[split]}2017.json',
        data_prefix=dict(img=f'{SPLITS[split]}2017/'),
        metainfo=dict(classes=SAMPLE_CLASSES[1:]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type=LoadAnnotations, with_bbox=True, with_mask=True),
        ],
    )
    assert len(dataset) == len(coco.imgs)
    for sample in dataset:
        annotations = coco.imgToAnns[sample['img_id']]
        labels = [a['category_id'] - 1 for a in annotations]
        areas = [a['area'] for a in annotations]
        assert sample['gt_bboxes_labels'].tolist() == labels
        assert sample['gt_masks'].areas.tolist() == areas
        crowds = [a['iscrowd'] for a in annotations]
        assert sample['gt_ignore_flags'].tolist() == crowds


def test_annotation_files_hold_each_id_once(
    sample_root: Path, split: str
) -> None:
    name = f'instances_{SPLITS[split]}2017.json'
    content = json.loads((sample_root / 'annotations' / name).read_text())
    for table in ('images', 'annotations', 'categories'):
        ids = [row['id'] for row in content[table]]
        assert len(set(ids)) == len(ids)
    names = [row['name'] for row in content['categories']]
    assert names == list(SAMPLE_CLASSES[1:])


@pytest.mark.parametrize('encode', [mask_to_polygon, mask_to_rle])
def test_encoded_masks_decode_to_themselves(encode) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = rng.integers(5, 30, size=2)
        corner = rng.integers(0, 4, size=2)
        rows, columns = np.indices((height, width))
        # a quarter of an ellipse, also at the very edge of the picture
        mask = (rows >= corner[0]) & (columns >= corner[1])
        mask &= rows / height + (columns / width) ** 2 < 0.9
        code = coco_mask.frPyObjects(encode(mask), int(height), int(width))
        decoded = coco_mask.decode(code).reshape(height, width)
        np.testing.assert_array_equal(decoded, mask)


def test_a_mask_with_a_hole_or_two_pieces_is_no_polygon() -> None:
    ring = np.ones((5, 6), dtype=bool)
    ring[2, 3] = False
    assert mask_to_polygon(ring) is None
    pieces = np.zeros((5, 6), dtype=bool)
    pieces[1, 1] = pieces[3, 4] = True
    assert mask_to_polygon(pieces) is None

"""What is said of COCO's files that lack something."""

import json
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset
from pycocotools import mask

from mmscope.datasets.checks import check_judging, check_masks
from mmscope.datasets.coco_checks import check_coco, check_images, check_truth

COCO = dict(
    images=[dict(id=1, file_name='1.jpg', height=64, width=96)],
    annotations=[
        dict(
            id=7,
            image_id=1,
            category_id=3,
            bbox=[0, 0, 9, 9],
            area=81,
            iscrowd=0,
            segmentation=[[0, 0, 9, 0, 9, 9]],
        )
    ],
    categories=[dict(id=3, name='circle')],
)


@contextmanager
def memory_of_at_most(more: int) -> Iterator[None]:
    """Let larger allocations than some bytes fail."""
    text = Path('/proc/self/statm').read_text()
    used = int(text.split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict], ConfigDict]:
    """Write a file and the config of a metric that reads it."""

    def write(content: object) -> ConfigDict:
        path = tmp_path / 'truth.json'
        path.write_text(json.dumps(content))
        return ConfigDict(
            type='CocoMetric', ann_file=str(path), metric=['bbox', 'segm']
        )

    return write


def without(key: str) -> dict:
    (one,) = COCO['annotations']
    less = {name: value for name, value in one.items() if name != key}
    return dict(COCO, annotations=[less])


def test_complete_files_pass(write) -> None:
    assert check_truth(write(COCO)) == COCO
    # nothing was annotated, or there was nothing
    for content in (
        dict(COCO, annotations=[]),
        {key: COCO[key] for key in ('images', 'categories')},
    ):
        assert check_truth(write(content)) == content


@pytest.mark.parametrize(
    ('key', 'fix'),
    [
        ('area', re.escape("a['bbox'][2] * a['bbox'][3]")),
        ('iscrowd', '0, or 1 for a crowd'),
        ('segmentation', "metric='bbox'"),
        ('bbox', 'add it'),
    ],
)
def test_objects_that_lack_something_are_named(write, key, fix) -> None:
    metric = write(without(key))
    with pytest.raises(
        ValueError,
        match=rf"truth.json: annotations\[0\] \(id 7\) has no '{key}'.*{fix}",
    ):
        check_truth(metric)
    metric.format_only = True
    if key in ('iscrowd', 'segmentation'):
        check_truth(metric)


def test_an_empty_outline_is_none(write) -> None:
    content = without('segmentation')
    content['annotations'][0]['segmentation'] = []
    metric = write(content)
    with pytest.raises(ValueError, match="has an empty 'segmentation'"):
        check_truth(metric)
    metric.metric = 'bbox'
    check_truth(metric)


def test_other_files_are_named(write, tmp_path: Path) -> None:
    for content in ([1, 2], dict(images=[]), dict(categories=[])):
        path = Path(write(content).ann_file)
        with pytest.raises(ValueError, match='truth.json is no COCO annotati'):
            check_coco(path)
    path.write_text('{"images": [')
    with pytest.raises(ValueError, match='truth.json is not valid json'):
        check_coco(path)
    images = [dict(id=1, file_name='1.jpg')]
    path = Path(write(dict(COCO, images=images)).ann_file)
    with pytest.raises(ValueError, match=r"images\[0\].* has no 'height'"):
        check_coco(path)


def with_rle(size: list, counts: object, side: int = 64) -> dict:
    (one,) = COCO['annotations']
    rle = dict(size=size, counts=counts)
    return dict(
        COCO,
        images=[dict(COCO['images'][0], height=side)],
        annotations=[dict(one, segmentation=rle)],
    )


def test_rles_of_their_image_pass(write) -> None:
    plain = dict(size=[64, 96], counts=[0, 9, 6135])
    packed = mask.frPyObjects(plain, 64, 96)['counts'].decode()
    for counts in (plain['counts'], packed):
        content = with_rle([64, 96], counts)
        assert check_truth(write(content)) == content


@pytest.mark.parametrize(
    ('size', 'counts'),
    [
        ([1_000_000, 1_000_000], 'PR6'),
        ([1_000_000, 1_000_000], [10**12]),
        ([96, 64], [0, 9, 6135]),
        ([32_000, 32_000], [1_024_000_000]),
        ([64, 96], 'PR6PR6'),
        ([64, 96], 'oooooo'),
    ],
)
def test_rles_that_do_not_fit_their_image_are_named(
    write, size, counts
) -> None:
    """And nothing of the size that they claim is allocated."""
    metric = write(with_rle(size, counts))
    with (
        memory_of_at_most(2**28),
        pytest.raises(
            ValueError,
            match=r'annotations\[0\] \(id 7\) has segmentation=.*its image is '
            r'64 x 96 \(H x W\).* the size of its image',
        ),
    ):
        check_truth(metric)


@pytest.mark.parametrize('counts', [[10**30], [2**20 * 96]])
def test_images_that_nothing_can_read_are_named(write, counts) -> None:
    side = counts[0] // 96
    with pytest.raises(ValueError, match='height must be a whole number fr'):
        check_truth(write(with_rle([side + 1, 96], counts, side=side + 1)))


class Listed(BaseDataset):
    """Images that are told."""

    def __init__(self, *infos: dict) -> None:
        self.infos = list(infos)
        super().__init__(serialize_data=False)

    def load_data_list(self) -> list[dict]:
        return self.infos


def info(number: int, *instances: dict) -> dict:
    return dict(
        img_id=number, img_path=f'{number}.jpg', instances=list(instances)
    )


def test_unknown_and_repeated_images_are_named() -> None:
    check_images('it', COCO, Listed(info(1)))
    with pytest.raises(ValueError, match='it does not know img_id 2.*2.jpg'):
        check_images('it', COCO, Listed(info(1), info(2)))
    with pytest.raises(ValueError, match='img_id 1 comes twice.*repeat none'):
        check_images('it', COCO, Listed(info(1), info(1)))


def test_masks_are_needed_where_they_are_loaded() -> None:
    load = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
    cfg = ConfigDict(type='CocoDataset', ann_file='a.json', pipeline=[load])
    whole = dict(mask=[[0, 0, 9, 0, 9, 9]])
    check_masks(Listed(info(1, whole), info(2)), cfg)
    broken = Listed(info(1, whole), info(2, whole, dict(bbox=[0, 0, 9, 9])))
    with pytest.raises(
        ValueError, match='a.json: object 1 of 2.jpg has no seg.*with_mask=Fa'
    ):
        check_masks(broken, cfg)
    cfg.pipeline[0].with_mask = False
    check_masks(broken, cfg)


def test_a_metric_without_file_needs_the_samples_objects() -> None:
    metric = ConfigDict(
        type='mmdet.CocoMetric', format_only=True, outfile_prefix='out'
    )
    pack = dict(type='PackDetInputs', meta_keys=('img_id',))
    cfg = ConfigDict(type='CocoDataset', pipeline=[pack])
    with pytest.raises(ValueError, match='has no ann_file.*format_only=True'):
        check_judging('test_evaluator', [metric], None, cfg)
    cfg.pipeline[0].meta_keys = ('img_id', 'instances')
    check_judging('test_evaluator', [metric], None, cfg)


def test_wrappers_that_no_config_shows_pass() -> None:
    hidden = Listed(info(1, dict(bbox=[0, 0, 9, 9])))
    hidden.datasets = [Listed(info(1)), Listed(info(2))]
    check_masks(hidden, ConfigDict(type='Own', pipeline=[]))

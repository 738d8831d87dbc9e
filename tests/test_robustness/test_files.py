"""Checkpoints, caches and annotations that somebody damaged or made up."""

import copy
import io
import json
import pickle
from pathlib import Path

import torch
from hostile import OUTCOMES, tried
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import ConfigDict
from pycocotools.coco import COCO as Truth
from pycocotools.cocoeval import COCOeval

from mmscope.datasets.coco_checks import check_truth
from mmscope.exits.plain_data import load_plain
from mmscope.utils.checkpoint import read_state_dict


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def saved(value: object, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


STATE = dict(state_dict=dict(a=torch.ones(2, 3), b=torch.arange(4)))
GOOD = [saved(STATE), saved(STATE, zipped=False), pickle.dumps([1, 'a'])]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A file with bytes changed, cut off or added, or of noise alone."""
    content = bytearray(draw(st.sampled_from(GOOD) | st.binary(max_size=200)))
    for _ in range(draw(st.integers(0, 8))):
        if content:
            place = draw(st.integers(0, len(content) - 1))
            content[place] = draw(st.integers(0, 255))
    end = draw(st.integers(0, len(content)) | st.just(len(content)))
    return bytes(content[:end]) + draw(st.binary(max_size=9))


@given(damaged())
def test_damaged_checkpoints(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'ä b.pth'
    path.write_bytes(content)
    with tried('checkpoints, damaged'):
        read_state_dict(path)


@given(damaged())
def test_damaged_answers(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'answer.pth'
    path.write_bytes(content)
    with tried('cached answers, damaged'):
        load_plain(path)


@given(
    st.recursive(
        st.just('bomb') | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    st.booleans(),
)
def test_files_that_run_code_are_refused(
    tmp_path: Path, tree: object, zipped: bool
) -> None:
    marker = tmp_path / 'ran'

    def armed(node: object) -> object:
        if node == 'bomb':
            return Bomb(marker)
        if isinstance(node, list):
            return list(map(armed, node))
        if isinstance(node, dict):
            return {key: armed(value) for key, value in node.items()}
        return node

    path = tmp_path / 'bomb.pth'
    path.write_bytes(saved(dict(a=armed(tree), b=Bomb(marker)), zipped))
    for area, load in (
        ('checkpoints with code', read_state_dict),
        ('cached answers with code', load_plain),
    ):
        before = OUTCOMES[area, 'accepted']
        with tried(area):
            load(path)
        assert OUTCOMES[area, 'accepted'] == before
        assert not marker.exists()


COCO = dict(
    images=[
        dict(id=1, file_name='1.jpg', height=64, width=96),
        dict(id=2, file_name='2.jpg', height=64, width=96),
    ],
    annotations=[
        dict(
            id=7,
            image_id=1,
            category_id=3,
            bbox=[0, 0, 9, 9],
            area=81,
            iscrowd=0,
            segmentation=[[0, 0, 9, 0, 9, 9]],
        ),
        dict(
            id=8,
            image_id=2,
            category_id=3,
            bbox=[1, 1, 9, 9],
            area=81,
            iscrowd=1,
            segmentation=dict(size=[64, 96], counts=[0, 9, 6135]),
        ),
    ],
    categories=[dict(id=3, name='circle')],
)
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 100)
    | st.floats()
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def odd_coco(draw: st.DrawFn) -> object:
    """COCO's json with parts taken out or replaced by something else."""
    content = copy.deepcopy(COCO)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(COCO)))
        entries = content.get(name)
        if isinstance(entries, list) and entries and draw(st.booleans()):
            index = draw(st.integers(0, len(entries) - 1))
            if isinstance(entries[index], dict) and entries[index]:
                key = draw(st.sampled_from(sorted(entries[index])))
                if draw(st.booleans()):
                    del entries[index][key]
                else:
                    entries[index][key] = draw(ANY_JSON)
            else:
                entries[index] = draw(ANY_JSON)
        elif draw(st.booleans()):
            content.pop(name, None)
        else:
            content[name] = draw(ANY_JSON)
    return content if draw(st.integers(0, 9)) else draw(ANY_JSON)


SIDES = st.sampled_from([64, 96, 64.0, 1, 2**20, 10**6, 10**9, 10**30, 0, -1])


@st.composite
def odd_rles(draw: st.DrawFn) -> object:
    """COCO's json with RLEs of any size, and of images of any size."""
    content = copy.deepcopy(COCO)
    size = [draw(SIDES), draw(SIDES)]
    image, one = content['images'][1], content['annotations'][1]
    if draw(st.booleans()):
        image.update(height=size[0], width=size[1])
    whole = [0, 9, 6135] if size == [64, 96] else [int(size[0] * size[1])]
    counts = draw(
        st.just(whole)
        | st.lists(st.integers(-1, 10**10), max_size=4)
        | st.sampled_from(['PR6', '09XdP5'])
        | st.text('01PQRSdo', max_size=8)
    )
    one['segmentation'] = dict(size=size, counts=counts)
    return content


def written(path: Path, content: object) -> ConfigDict:
    """Write annotations; returns the config of the metric that reads them."""
    path.write_text(json.dumps(content))
    return ConfigDict(
        type='CocoMetric', ann_file=str(path), metric=['bbox', 'segm']
    )


@given(odd_rles())
def test_odd_rles(tmp_path: Path, content: object) -> None:
    """What passes decodes to a mask of its image."""
    path = tmp_path / 'a.json'
    metric = written(path, content)
    with tried('sizes of RLEs'):
        check_truth(metric)
        truth = Truth(str(path))
        image = truth.imgs[2]
        assert truth.annToMask(truth.anns[8]).shape == (
            image['height'],
            image['width'],
        )


@given(odd_coco())
def test_odd_annotations(tmp_path: Path, content: object) -> None:
    """What passes can be read and judged by pycocotools."""
    path = tmp_path / 'ä b.json'
    metric = written(path, content)
    with tried('COCO annotations'):
        check_truth(metric)
        judge(path)


def judge(path: Path) -> None:
    """Judge the objects of a file by themselves, as CocoMetric does."""
    truth, found = Truth(str(path)), Truth(str(path))
    for one in found.anns.values():
        one['score'] = 1.0
    for kind in ('bbox', 'segm'):
        COCOeval(truth, found, kind).evaluate()
    for one in truth.anns.values():
        if one['image_id'] in truth.imgs:
            truth.annToMask(one)

"""Answers on disk, found again by what the image is."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmseg.datasets import BaseSegDataset
from PIL import Image

from mmscope.exits import AnswerCache, ImageAnswers
from mmscope.exits.cache import image_digest

ANSWERS = ImageAnswers(
    name='a.jpg',
    confidence=dict(model=0.5),
    windows=(0.5,),
    entries=((torch.ones(3), torch.zeros(3)), (dict(found={1: 2.0}), None)),
    quality=(10.0, 20.0),
    gflops=(1.0, float('nan')),
    seconds=(0.1, 0.2),
)
OPTIONS = dict(
    metainfo=dict(classes=('a', 'b')),
    data_prefix=dict(img_path='images', seg_map_path='masks'),
    pipeline=[],
)


def write(root: Path, name: str, label: int = 0) -> None:
    for folder in ('images', 'masks'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    pixels = np.full((4, 4), len(name), np.uint8)
    Image.fromarray(pixels).convert('RGB').save(
        root / 'images' / f'{name}.jpg'
    )
    Image.fromarray(np.full((4, 4), label, np.uint8)).save(
        root / 'masks' / f'{name}.png'
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ('b', 'cc'):
        write(tmp_path / 'data', name)
    return tmp_path / 'data'


def digests(root: Path) -> dict[str, str]:
    """The name of each image's answers, by the image's name."""
    dataset = BaseSegDataset(data_root=str(root), **OPTIONS)
    return {
        Path(dataset.get_data_info(i)['img_path']).stem: image_digest(
            dataset, i
        )
        for i in range(len(dataset))
    }


def test_an_image_added_in_front_moves_no_answers(root: Path) -> None:
    before = digests(root)
    write(root, 'a')
    after = digests(root)
    assert {name: after[name] for name in before} == before
    assert len(set(after.values())) == 3


def test_a_mask_overwritten_in_place_is_another_image(root: Path) -> None:
    before = digests(root)
    stat = (root / 'masks' / 'b.png').stat()
    write(root, 'b', label=1)
    after = digests(root)
    assert after['b'] != before['b']
    assert after['cc'] == before['cc']
    # the content counts, not when or how it was written
    write(root, 'b', label=0)
    assert (root / 'masks' / 'b.png').stat().st_mtime_ns != stat.st_mtime_ns
    assert digests(root) == before


def test_objects_of_coco_belong_to_their_image(tmp_path: Path) -> None:
    def digest(width: float) -> str:
        box = dict(
            id=1,
            image_id=7,
            category_id=1,
            bbox=[0, 0, width, 3],
            area=3 * width,
            iscrowd=0,
        )
        content = dict(
            images=[dict(id=7, file_name='a.jpg', height=9, width=9)],
            annotations=[box],
            categories=[dict(id=1, name='a')],
        )
        path = tmp_path / 'instances.json'
        path.write_text(json.dumps(content))
        dataset = CocoDataset(
            ann_file=str(path),
            metainfo=dict(classes=('a',)),
            data_prefix=dict(img=str(tmp_path)),
            pipeline=[],
        )
        return image_digest(dataset, 0)

    Image.new('RGB', (9, 9)).save(tmp_path / 'a.jpg')
    assert digest(3) == digest(3) != digest(4)


def test_wrapped_datasets_name_the_same_images(root: Path) -> None:
    one = BaseSegDataset(data_root=str(root), **OPTIONS)
    own = [image_digest(one, i) for i in range(2)]
    twice = RepeatDataset(one, times=2)
    assert [image_digest(twice, i) for i in range(4)] == own * 2
    both = ConcatDataset([one, one])
    assert [image_digest(both, i) for i in range(4)] == own * 2
    assert image_digest(torch.utils.data.Subset(one, [1]), 0) is None


@pytest.fixture
def cached(tmp_path: Path) -> AnswerCache:
    return AnswerCache(tmp_path / 'answers')


def test_answers_come_back_as_they_were(cached: AnswerCache) -> None:
    assert cached.load('x') is None
    cached.save('x', ANSWERS)
    back = cached.load('x')
    assert back.name == ANSWERS.name
    assert back.windows == ANSWERS.windows
    assert np.isnan(back.gflops[1])
    assert back.entries[1] == (dict(found={1: 2.0}), None)
    torch.testing.assert_close(back.entries[0], ANSWERS.entries[0])
    # no image without a name is kept
    cached.save(None, ANSWERS)
    assert cached.load(None) is None
    assert len(list(cached.folder.iterdir())) == 1


def test_a_damaged_file_is_answered_again(cached: AnswerCache) -> None:
    cached.save('x', ANSWERS)
    (path,) = cached.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-40])
    assert cached.load('x') is None


def test_entries_that_are_no_data_are_not_kept(cached: AnswerCache) -> None:
    odd = ImageAnswers(**{**vars(ANSWERS), 'entries': (object(), object())})
    folder = cached.folder
    cached.save('x', odd)
    assert not list(folder.glob('*.pth'))
    assert cached.load('x') is None


@pytest.fixture
def folder_of(tmp_path: Path) -> Callable[..., str]:
    """The cache's folder for a config with some values changed."""
    (tmp_path / 'weights.pth').write_bytes(b'weights')
    (tmp_path / 'truth.json').write_text('{}')
    plain = dict(
        model=dict(backbone=dict(type='B', eta=0.5, alpha=0.8)),
        test_dataloader=dict(
            batch_size=2, dataset=dict(type='D', indices=3, pipeline=[])
        ),
        test_evaluator=[dict(ann_file=str(tmp_path / 'truth.json'))],
    )

    def find(device: str = 'cpu', **changes: object) -> str:
        cfg = Config(plain)
        cfg.merge_from_dict(
            {key.replace('__', '.'): value for key, value in changes.items()}
        )
        weights = str(tmp_path / 'weights.pth')
        return AnswerCache.of_run(tmp_path, cfg, weights, device).folder.name

    return find


def test_answers_belong_to_a_model_and_how_it_is_tested(
    folder_of, tmp_path
) -> None:
    plain = folder_of()
    assert folder_of(model__backbone__eta=0.9) == plain
    assert folder_of(test_dataloader__dataset__indices=9) == plain
    others = {
        folder_of(model__backbone__alpha=0.5),
        folder_of(test_dataloader__dataset__pipeline=[dict(type='Resize')]),
        # times depend on these
        folder_of(test_dataloader__batch_size=8),
        folder_of('a GPU'),
    }
    (tmp_path / 'truth.json').write_text('{"images": []}')
    others.add(folder_of())
    (tmp_path / 'weights.pth').write_bytes(b'others')
    others.add(folder_of())
    assert len(others - {plain}) == 6

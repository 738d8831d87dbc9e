"""Files that cannot be used are named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmscope.datasets import LoadChecked

IMAGE = dict(type='LoadImageFromFile')
MASK = dict(type='mmseg.LoadAnnotations', reduce_zero_label=True)


def write_mask(path: Path, labels: list[int]) -> dict:
    mask = np.random.default_rng(0).choice(np.uint8(labels), (64, 96))
    Image.fromarray(mask).save(path)
    return dict(seg_map_path=str(path), reduce_zero_label=True, seg_fields=[])


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / 'photo.jpg'
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def test_good_files_load_as_ever(photo: Path, tmp_path: Path) -> None:
    image = LoadChecked(IMAGE).transform(dict(img_path=str(photo)))
    assert image['img'].shape == (64, 96, 3)
    results = write_mask(tmp_path / 'mask.png', [0, 1, 150, 255])
    mask = LoadChecked(MASK, num_classes=150).transform(results)
    assert np.unique(mask['gt_seg_map']).tolist() == [0, 149, 255]


@pytest.mark.parametrize('kept', [0.0, 0.5, 0.95])
def test_corrupt_image_is_named(photo: Path, kept: float) -> None:
    data = photo.read_bytes()
    photo.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(OSError, match=f'(?s){photo}.* corrupt or missing'):
        LoadChecked(IMAGE).transform(dict(img_path=str(photo)))


def test_missing_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'gone.jpg'
    with pytest.raises(OSError, match=f'{path}.*corrupt or missing'):
        LoadChecked(IMAGE).transform(dict(img_path=str(path)))


def test_corrupt_mask_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'mask.png'
    results = write_mask(path, [0, 1, 2])
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(OSError, match=f"seg_map_path': '{path}.*corrupt"):
        LoadChecked(MASK, num_classes=150).transform(results)


def test_labels_beyond_the_classes_are_named(tmp_path: Path) -> None:
    path = tmp_path / 'mask.png'
    results = write_mask(path, [0, 3, 5, 9, 255])
    with pytest.raises(
        ValueError,
        match=rf'{path} has the labels \[4, 8\], allowed are 0 to 3 and 255',
    ):
        LoadChecked(MASK, num_classes=4).transform(results)
    LoadChecked(MASK).transform(write_mask(path, [0, 9]))

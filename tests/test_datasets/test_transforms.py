"""Files that cannot be used are named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from mmscope.datasets import CheckLabels, LoadChecked, LoadMask
from mmscope.registry import TRANSFORMS

IMAGE = dict(type='LoadImageFromFile')


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
    mask = LoadMask(reduce_zero_label=True).transform(results)
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
        LoadMask().transform(results)


def test_samples_without_a_mask_are_not_loaded() -> None:
    results = dict(img_path='photo.jpg')
    assert LoadMask()(results) is results


def load_pair(folder: Path, mask: np.ndarray, orientation: int = 1) -> dict:
    """Load a photo and its mask, as mmseg's pipelines do."""
    photo, path = folder / 'photo.jpg', folder / 'mask.png'
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    Image.new('RGB', (96, 64)).save(photo, exif=tags)
    Image.fromarray(mask).save(path)
    results = dict(
        img_path=str(photo),
        seg_map_path=str(path),
        reduce_zero_label=False,
        seg_fields=[],
    )
    for loader in (IMAGE, dict(type='mmseg.LoadAnnotations')):
        results = TRANSFORMS.build(loader)(results)
    return results


def labels_of(*values: int, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    return np.random.default_rng(0).choice(np.uint8(values), size)


@pytest.mark.parametrize('void', [0, 5, 254, 255])
def test_any_label_can_be_that_of_no_class(tmp_path: Path, void: int) -> None:
    results = load_pair(tmp_path, labels_of(0, 4, void))
    check = CheckLabels(num_classes=5, ignore_index=void)
    assert check(results) is results
    if void == 0:
        return
    message = rf'mask.png has the labels \[{void}\]; allowed are 0 to 4 and 6'
    with pytest.raises(ValueError, match=message):
        CheckLabels(num_classes=5, ignore_index=6)(results)


def test_samples_without_a_mask_pass() -> None:
    results = dict(img_path='photo.jpg')
    assert CheckLabels(num_classes=5)(results) == results


def test_a_mask_needs_classes() -> None:
    with pytest.raises(ValueError, match='num_classes must be positive'):
        CheckLabels(num_classes=0)


@pytest.mark.parametrize('channels', [2, 3, 4])
def test_grey_masks_of_several_channels_say_which_to_keep(
    tmp_path: Path, channels: int
) -> None:
    grey = labels_of(0, 4)
    mask = np.stack([grey] * channels, axis=-1)
    if channels in (2, 4):
        mask[..., -1] = 255
    check = CheckLabels(num_classes=5)
    message = rf'mask.png has the shape \(64, 96, {channels}\).*keep the first'
    with pytest.raises(ValueError, match=message):
        check(load_pair(tmp_path, mask))
    # what the message says
    path = tmp_path / 'mask.png'
    kept = np.asarray(Image.open(path))[..., 0]
    assert check(load_pair(tmp_path, kept))['gt_seg_map'].shape == (64, 96)


def test_a_colour_mask_says_how_to_map_it(tmp_path: Path) -> None:
    palette = np.uint8([[0, 0, 0], [200, 0, 0], [0, 200, 0]])
    truth = labels_of(0, 1, 2)
    rgb = palette[truth]
    with pytest.raises(ValueError, match='a colour picture.*palette'):
        CheckLabels(num_classes=3)(load_pair(tmp_path, rgb))
    mask = np.zeros_like(truth)
    # what the message says
    for index, colour in enumerate(palette):
        mask[(rgb[..., :3] == colour).all(-1)] = index
    assert np.array_equal(mask, truth)


@pytest.mark.parametrize('size', [(32, 48), (128, 192), (64, 95)])
def test_a_mask_has_the_size_of_its_image(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    results = load_pair(tmp_path, labels_of(0, 1, size=size))
    message = (
        rf'mask.png is {size[0]} x {size[1]} \(H x W\), its image '
        '.*photo.jpg is 64 x 96.*nearest'
    )
    with pytest.raises(ValueError, match=message):
        CheckLabels(num_classes=5)(results)


def test_a_resized_image_keeps_its_mask(tmp_path: Path) -> None:
    """Test pipelines resize the image and load the mask afterwards."""
    results = load_pair(tmp_path, labels_of(0, 1))
    del results['gt_seg_map'], results['seg_fields'][:]
    for step in (
        dict(type='mmcv.Resize', scale=(192, 48), keep_ratio=True),
        dict(type='mmseg.LoadAnnotations'),
        dict(type='mmscope.CheckLabels', num_classes=5),
    ):
        results = TRANSFORMS.build(step)(results)
    assert results['img'].shape[:2] != results['gt_seg_map'].shape


def test_a_photo_that_is_turned_by_its_tag_says_so(tmp_path: Path) -> None:
    results = load_pair(tmp_path, labels_of(0, 1), orientation=6)
    assert results['ori_shape'] == (96, 64)
    with pytest.raises(ValueError, match='color_ignore_orientation'):
        CheckLabels(num_classes=5)(results)
    # what the message says
    loader = dict(IMAGE, color_type='color_ignore_orientation')
    results.update(TRANSFORMS.build(loader)(dict(results)))
    assert CheckLabels(num_classes=5)(results)['ori_shape'] == (64, 96)

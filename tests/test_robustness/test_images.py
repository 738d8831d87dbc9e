"""Images and masks of all kinds, sizes and states."""

import io
from pathlib import Path

import numpy as np
import pytest
from hostile import tried
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmscope.apis import ScopeInferencer
from mmscope.apis.inputs import bgr_image
from mmscope.datasets.transforms import CheckLabels, LoadChecked, LoadMask

NAMES = ('plain', 'with space', 'ünïcödé 画像', "quote's")
MODES = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'I;16', 'I', 'F')
SIDES = st.integers(1, 40) | st.sampled_from([1, 2, 63, 10_000])


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes, tuple[int, int]]:
    """Name, content and size of a picture, whole or damaged."""
    width, height = draw(SIDES), draw(SIDES)
    if width * height > 10**6:
        height = 3
    mode = draw(st.sampled_from(MODES))
    kind = draw(st.sampled_from(['png', 'jpg', 'tif', 'bmp', 'webp']))
    image = Image.new(mode, (width, height))
    exif = Image.Exif()
    exif[0x0112] = draw(st.integers(0, 9))
    content = io.BytesIO()
    names = dict(jpg='jpeg', tif='tiff')
    try:
        options = dict(exif=exif) if kind in ('jpg', 'png') else {}
        image.save(content, names.get(kind, kind), **options)
    except (OSError, ValueError, KeyError):  # not every format has each mode
        image.convert('RGB').save(content := io.BytesIO(), 'png')
    data = bytearray(content.getvalue())
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    elif draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] ^= 0xFF
    name = f'{draw(st.sampled_from(NAMES))}.{kind}'
    return name, bytes(data), (height, width)


@given(files())
def test_files_of_images(
    tmp_path: Path, file: tuple[str, bytes, tuple[int, int]]
) -> None:
    path = tmp_path / file[0]
    path.write_bytes(file[1])
    load = LoadChecked(dict(type='LoadImageFromFile'))
    with tried('files of images'):
        found = bgr_image(load(dict(img_path=str(path)))['img'])
        assert found.dtype == np.uint8
        assert found.shape[2] == 3


@given(files(), st.tuples(SIDES, SIDES), st.booleans())
def test_files_of_masks(
    tmp_path: Path,
    file: tuple[str, bytes, tuple[int, int]],
    other: tuple[int, int],
    same: bool,
) -> None:
    path = tmp_path / file[0]
    path.write_bytes(file[1])
    size = file[2] if same else other
    load, check = LoadMask(), CheckLabels(num_classes=5)
    with tried('files of masks'):
        given_one = dict(
            seg_map_path=str(path),
            seg_fields=[],
            reduce_zero_label=False,
            ori_shape=size,
        )
        assert check(load(given_one))['gt_seg_map'].shape == size


@pytest.fixture(scope='module')
def infer(model_files: tuple[Path, Path]) -> ScopeInferencer:
    return ScopeInferencer(*model_files)


DTYPES = ('uint8', 'uint8', 'uint8', 'int16', 'uint16', 'float32', 'bool')
SHAPES = st.tuples(SIDES, SIDES) | st.tuples(SIDES, SIDES, st.integers(0, 5))


@given(SHAPES, st.sampled_from(DTYPES), st.integers(0, 255))
def test_arrays(shape: tuple[int, ...], dtype: str, value: int) -> None:
    if shape[0] * shape[1] > 10**6:
        shape = (3, *shape[1:])
    array = np.full(shape, value).astype(dtype)
    with tried('arrays as images'):
        assert bgr_image(array).shape == (*shape[:2], 3)


@given(st.tuples(SIDES, SIDES), st.sampled_from([(), (1,), (3,), (4,)]))
def test_answers(
    infer: ScopeInferencer, size: tuple[int, int], channels: tuple[int, ...]
) -> None:
    if size[0] * size[1] > 10**6:
        size = (3, size[1])
    with tried('images that are answered'):
        (sample,) = infer(np.full((*size, *channels), 9, np.uint8))
        assert sample.pred_sem_seg.data.shape == (1, *size)

from dataclasses import replace

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.visualization import Visualizer
from mmseg.structures import SegDataSample
from PIL import Image

from mmscope.models import collect_passes
from mmscope.visualization import (
    ScopePicture,
    draw_scope,
    picture_scope,
)
from mmscope.visualization.answers import paint
from mmscope.visualization.sheet import _panels, heat, outline

PALETTE = [[255, 0, 0], [0, 0, 255]]


def picture(confidence: float, colour: tuple[int, int, int]) -> ScopePicture:
    image = np.full((20, 30, 3), 128, dtype=np.uint8)
    answer = np.full((20, 30, 3), colour, dtype=np.uint8)
    return ScopePicture(
        name='a.jpg',
        image=image,
        importance=np.zeros((20, 30)),
        selected=np.zeros((20, 30), dtype=bool),
        coarse=answer,
        fine=image,
        truth=None,
        confidences=(confidence,),
        quality=None,
    )


def pixels_of(path, colour: tuple[int, int, int]) -> np.ndarray:
    pixels = np.asarray(Image.open(path).convert('RGB'))
    return np.argwhere((pixels == colour).all(-1))


def test_labels_are_blended_and_no_class_is_black() -> None:
    image = np.full((1, 3, 3), 100, dtype=np.uint8)
    painted = paint(image, np.array([[0, 1, 255]]), PALETTE)
    assert painted.tolist() == [[[200, 35, 35], [35, 35, 200], [35, 35, 35]]]


def test_heat_rises_with_importance() -> None:
    image = np.zeros((1, 3, 3), dtype=np.uint8)
    light = heat(image, np.array([[0.0, 0.5, 1.0]])).sum(axis=-1)[0]
    assert light[0] < light[1] < light[2]


def test_outline_fades_what_is_not_selected() -> None:
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    selected = np.zeros((40, 40), dtype=bool)
    selected[:, :20] = True
    drawn = outline(image, selected)
    assert drawn[20, 5].tolist() == [0, 0, 0]
    assert drawn[20, 35].tolist() == [178, 178, 178]
    assert (drawn[20, 17:22] == (220, 40, 40)).all(-1).any()


def test_sheet_is_sorted_by_confidence(tmp_path) -> None:
    red, green = (250, 0, 0), (0, 250, 0)
    path = tmp_path / 'new' / 'sheet.png'
    draw_scope([picture(0.3, red), picture(0.9, green)], 0.7, path)
    assert pixels_of(path, green).mean(0)[0] < pixels_of(path, red).mean(0)[0]


def test_cells_are_where_the_image_has_them(segmentor) -> None:
    """The original is twice the input, whose canvas is padded to the right."""
    segmentor.backbone.alpha = 0.25
    item = dict(
        inputs=torch.randn(3, 64, 40),
        data_samples=SegDataSample(
            metainfo=dict(img_path='', img_shape=(64, 40), ori_shape=(128, 80))
        ),
        image=np.zeros((128, 80, 3), dtype=np.uint8),
    )
    visualizer = Visualizer()
    visualizer.dataset_meta = dict(palette=PALETTE * 3)
    (found,) = picture_scope(segmentor, [item], visualizer)
    assert found.importance.shape == found.selected.shape == (128, 80)
    # one of 2 x 2 coarse cells, 64 pixels wide in the original, or what the
    # padding leaves of it
    rows, columns = np.nonzero(found.selected)
    assert (rows.min(), rows.max()) in {(0, 63), (64, 127)}
    assert (columns.min(), columns.max()) in {(0, 63), (64, 79)}
    assert found.selected.sum() == 64 * (np.ptp(columns) + 1)
    assert found.importance[found.selected].min() == 1
    assert found.importance.min() == 0
    assert found.truth is None
    assert found.coarse.shape == (128, 80, 3)


def test_sample_without_path_is_named(segmentor) -> None:
    item = dict(
        inputs=torch.randn(3, 64, 64),
        data_samples=SegDataSample(
            metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64))
        ),
    )
    with pytest.raises(ValueError, match="add 'img_path' to the meta_keys"):
        picture_scope(segmentor, [item], Visualizer())


def slide(model, crop: int = 64, stride: int = 32) -> None:
    model.test_cfg = ConfigDict(
        mode='slide', crop_size=(crop, crop), stride=(stride, stride)
    )


def make_item(height: int, width: int) -> dict:
    size = (height, width)
    return dict(
        inputs=torch.randn(3, *size),
        data_samples=SegDataSample(
            metainfo=dict(img_path='', img_shape=size, ori_shape=size)
        ),
        image=np.zeros((*size, 3), dtype=np.uint8),
    )


@pytest.fixture
def visualizer() -> Visualizer:
    visualizer = Visualizer()
    visualizer.dataset_meta = dict(palette=PALETTE * 3)
    return visualizer


def test_windows_share_one_picture(segmentor, visualizer, tmp_path) -> None:
    """Two windows of 2 x 2 cells overlap by a column; each refines two."""
    slide(segmentor)
    item = make_item(64, 96)
    with collect_passes(segmentor) as passes:
        (found,) = picture_scope(segmentor, [item], visualizer)
    assert len(found.confidences) == 2
    assert found.confidences == tuple(
        one.confidence.item() for one in passes[:2]
    )
    left, right = (one.importance[0].reshape(2, 2) for one in passes[2:])
    seen = torch.stack(
        [left[:, 0], (left[:, 1] + right[:, 0]) / 2, right[:, 1]], 1
    )
    seen = (seen - seen.min()) / (seen.max() - seen.min())
    np.testing.assert_allclose(
        found.importance[16::32, 16::32], seen, atol=1e-5
    )
    chosen = np.zeros((2, 3), dtype=bool)
    for column, one in enumerate(passes[2:]):
        for cell in one.selected[0].tolist():
            chosen[cell // 2, column + cell % 2] = True
    assert np.array_equal(found.selected[16::32, 16::32], chosen)
    draw_scope([found], 0.5, tmp_path / 'windows.png')


def test_a_window_larger_than_the_image_is_the_image(
    segmentor, visualizer
) -> None:
    item = make_item(64, 96)
    (whole,) = picture_scope(segmentor, [item], visualizer)
    slide(segmentor, crop=160)
    (window,) = picture_scope(segmentor, [item], visualizer)
    assert np.array_equal(whole.importance, window.importance)
    assert np.array_equal(whole.selected, window.selected)
    assert np.array_equal(whole.fine, window.fine)


@pytest.mark.parametrize('size', [(1, 1), (1, 200), (200, 1)])
def test_images_of_a_pixel_have_pictures(
    segmentor, visualizer, tmp_path, size
) -> None:
    (found,) = picture_scope(segmentor, [make_item(*size)], visualizer)
    assert found.importance.shape == found.selected.shape == size
    draw_scope([found], 0.5, tmp_path / 'sheet.png')
    assert max(Image.open(tmp_path / 'sheet.png').size) < 4000


def test_equal_names_are_told_apart(segmentor, visualizer) -> None:
    items = [make_item(64, 64) for _ in range(2)]
    for folder, item in zip('ab', items, strict=True):
        item['data_samples'].set_metainfo(dict(img_path=f'{folder}/1.jpg'))
    found = picture_scope(segmentor, items, visualizer)
    assert [picture.name for picture in found] == ['1.jpg', 'b_1.jpg']


def test_each_end_is_written_beside_its_image(tmp_path) -> None:
    one = replace(picture(0.0, (0, 0, 0)), confidences=(0.25, 0.75))
    for eta, text, answers in (
        (0.5, 'eta 0.5: 1 of 2 windows exit', 0),
        (0.0, 'eta 0: 2 of 2 windows exit', 1),
        (1.0, 'eta 1: 0 of 2 windows exit', 1),
    ):
        titles = [title for _, title, _ in _panels(one, eta)]
        assert titles[0] == text
        assert sum('answer' in title for title in titles) == answers
    sure = picture(0.75, (0, 0, 0))
    assert _panels(sure, 0.5)[0][1] == '0.75 ≥ 0.5: exits'
    assert _panels(sure, 0.8)[0][1] == '0.75 < 0.8: is refined'

import numpy as np
import pytest
import torch
from mmengine.visualization import Visualizer
from mmseg.structures import SegDataSample
from PIL import Image

from mmscope.visualization import (
    ScopePicture,
    draw_scope,
    picture_scope,
)
from mmscope.visualization.scope_pictures import heat, outline, paint

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
        confidence=confidence,
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


def test_windows_have_no_one_picture(segmentor) -> None:
    segmentor.test_cfg = dict(mode='slide')
    with pytest.raises(ValueError, match="test_cfg.mode='whole'"):
        picture_scope(segmentor, [], Visualizer())

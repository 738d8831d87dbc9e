from dataclasses import replace

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.visualization import Visualizer
from mmseg.structures import SegDataSample
from PIL import Image

from mmscope.models import collect_passes, exit_settings
from mmscope.visualization import (
    ScopePicture,
    draw_scope,
    picture_scope,
    render_scope,
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
        scores=np.zeros((20, 30)),
        label='importance',
        selected=np.zeros((20, 30), dtype=bool),
        coarse=answer,
        fine=image,
        truth=None,
        confidences=(confidence,),
        shares=(0.8,),
        tau=None,
        quality=None,
    )


def pixels_of(path, colour: tuple[int, int, int]) -> np.ndarray:
    pixels = np.asarray(Image.open(path).convert('RGB'))
    return np.argwhere((pixels == colour).all(-1))


def test_labels_are_blended_and_no_class_is_black() -> None:
    image = np.full((1, 3, 3), 100, dtype=np.uint8)
    painted = paint(image, np.array([[0, 1, 255]]), PALETTE)
    assert painted.tolist() == [[[200, 35, 35], [35, 35, 200], [35, 35, 35]]]


def test_heat_rises_with_the_scores() -> None:
    image = np.zeros((1, 3, 3), dtype=np.uint8)
    light = heat(image, np.array([[-3.0, 0.5, 4.0]])).sum(axis=-1)[0]
    assert light[0] < light[1] < light[2]
    flat = heat(image, np.full((1, 3), 7.0))
    assert np.array_equal(flat, heat(image, np.zeros((1, 3))))


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
    assert found.scores.shape == found.selected.shape == (128, 80)
    # one of 2 x 2 coarse cells, 64 pixels wide in the original, or what the
    # padding leaves of it
    rows, columns = np.nonzero(found.selected)
    assert (rows.min(), rows.max()) in {(0, 63), (64, 127)}
    assert (columns.min(), columns.max()) in {(0, 63), (64, 79)}
    assert found.selected.sum() == 64 * (np.ptp(columns) + 1)
    chosen = found.scores[found.selected]
    assert chosen.min() == found.scores.max() > found.scores.min()
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
    np.testing.assert_allclose(found.scores[16::32, 16::32], seen, rtol=1e-5)
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
    assert np.array_equal(whole.scores, window.scores)
    assert np.array_equal(whole.selected, window.selected)
    assert np.array_equal(whole.fine, window.fine)


@pytest.mark.parametrize('size', [(1, 1), (1, 200), (200, 1)])
def test_images_of_a_pixel_have_pictures(
    segmentor, visualizer, tmp_path, size
) -> None:
    (found,) = picture_scope(segmentor, [make_item(*size)], visualizer)
    assert found.scores.shape == found.selected.shape == size
    draw_scope([found], 0.5, tmp_path / 'sheet.png')
    assert max(Image.open(tmp_path / 'sheet.png').size) < 4000


def test_equal_names_are_told_apart(segmentor, visualizer) -> None:
    items = [make_item(64, 64) for _ in range(2)]
    for folder, item in zip('ab', items, strict=True):
        item['data_samples'].set_metainfo(dict(img_path=f'{folder}/1.jpg'))
    found = picture_scope(segmentor, items, visualizer)
    assert [picture.name for picture in found] == ['1.jpg', 'b_1.jpg']


def titles_of(picture: ScopePicture, eta: float) -> list[str]:
    return [title for _, title, _ in _panels(picture, eta)]


def test_each_end_is_written_beside_its_image(tmp_path) -> None:
    one = replace(
        picture(0.0, (0, 0, 0)), confidences=(0.25, 0.75), shares=(0.4, 0.8)
    )
    for eta, text, share, answers in (
        (0.5, 'eta 0.5: 1 of 2 windows exit', 20, 0),
        (0.0, 'eta 0: 2 of 2 windows exit', 0, 1),
        (1.0, 'eta 1: 0 of 2 windows exit', 60, 1),
    ):
        titles = titles_of(one, eta)
        assert titles[0] == f'{text}\n{share} % of cells refined'
        assert sum('answer' in title for title in titles) == answers
    sure = picture(0.75, (0, 0, 0))
    assert titles_of(sure, 0.5)[0] == '0.75 ≥ 0.5: exits'
    assert titles_of(sure, 0.8)[0] == '0.75 < 0.8: 80 % of cells refined'


@pytest.mark.parametrize(
    ('confidence', 'eta', 'start'),
    [
        (0.9496, 0.95, '0.9496 < 0.95: '),
        (0.9571, 0.9574, '0.957 < 0.9574: '),
        (0.9504, 0.95, '0.95 ≥ 0.95: '),
        (0.95, 0.95, '0.95 ≥ 0.95: '),
    ],
)
def test_what_is_written_shows_which_is_larger(
    confidence: float, eta: float, start: str
) -> None:
    one = picture(confidence, (0, 0, 0))
    assert titles_of(one, eta)[0].startswith(start)


def test_an_image_without_a_cell_worth_it_exits() -> None:
    """Whatever its confidence, and so does a window."""
    one = replace(picture(0.75, (0, 0, 0)), shares=(0.0,), tau=0.1)
    titles = titles_of(one, 0.8)
    assert titles[0] == '0.75 < 0.8, no cell to refine: exits'
    assert titles[2:] == [
        'no cell to refine',
        'coarse = answer',
        'fine without tau',
    ]
    assert titles_of(one, 0.7)[0] == '0.75 ≥ 0.7: exits'
    both = replace(one, confidences=(0.25, 0.75), shares=(0.4, 0.0))
    assert both.exits(0.8) == [False, True]
    assert titles_of(both, 0.8)[0] == (
        'eta 0.8: 1 of 2 windows exit\n20 % of cells refined'
    )
    assert titles_of(both, 0.8)[-1] == 'fine'


def test_scores_are_named_and_measured_where_tau_decides() -> None:
    one = picture(0.75, (0, 0, 0))
    assert titles_of(one, 0.8)[1] == 'importance'
    scores = np.linspace(0.03, 0.4, 600).reshape(20, 30)
    one = replace(one, label='uncertainty', scores=scores, tau=0.125)
    assert titles_of(one, 0.8)[1] == 'uncertainty, 0.03 to 0.4, tau 0.125'


def test_one_tau_is_drawn_on_one_scale(monkeypatch) -> None:
    """An image without doubt looks so beside one with many."""
    spans = []
    monkeypatch.setattr(
        'mmscope.visualization.sheet.heat',
        lambda image, scores, span: spans.append(span) or image,
    )
    one, other = (
        replace(picture(0.5, (0, 0, 0)), scores=scores * np.ones((20, 30)))
        for scores in (np.linspace(0, 0.1, 30), np.linspace(0.2, 0.5, 30))
    )
    render_scope([one, other], 0.7)
    assert spans == [None, None]
    render_scope([replace(p, tau=0.1) for p in (one, other)], 0.7)
    assert spans[2:] == [(0, 0.5), (0, 0.5)]
    image = np.zeros((1, 3, 3), dtype=np.uint8)
    scores = np.array([[0.0, 0.05, 0.1]])
    dim = heat(image, scores, (0, 0.5)).sum(axis=-1)[0]
    bright = heat(image, scores).sum(axis=-1)[0]
    assert dim[0] == bright[0]
    assert dim[2] < bright[1] < bright[2]


LADDER = (0.25, 0.5, 1.0)


def elastic_tau(model, item: dict, wanted: int) -> float:
    """The tau that so many cells of the first window are above."""
    batch = dict(
        inputs=[item['inputs']], data_samples=[item['data_samples'].clone()]
    )
    with (
        torch.no_grad(),
        exit_settings(model, eta=1.0),
        collect_passes(model) as passes,
    ):
        model.test_step(batch)
    scores = passes[0].refinement.scores[0].sort(descending=True).values
    return ((scores[wanted - 1] + scores[wanted]) / 2).item()


@pytest.mark.parametrize(
    ('score', 'label'),
    [
        ('CoarseUncertainty', 'uncertainty'),
        ('CellContrast', 'contrast'),
        ('Importance', 'importance'),
        ('Random', 'chance'),
    ],
)
def test_an_elastic_model_is_drawn_as_it_refines(
    make_segmentor, visualizer, score, label
) -> None:
    """Two of eight cells are above tau, a quarter, which the ladder has."""
    model = make_segmentor(
        backbone__alpha=LADDER,
        backbone__cell_score=dict(type=f'mmscope.{score}'),
    )
    item = make_item(64, 128)
    item['data_samples'].set_metainfo(dict(img_path='1.jpg'))
    model.backbone.tau = tau = elastic_tau(model, item, 2)
    (found,) = picture_scope(model, [item], visualizer)
    assert found.label == label
    assert (found.shares, found.tau) == ((0.25,), tau)
    assert np.array_equal(found.selected, found.scores > tau)
    assert found.selected.mean() == 0.25
    assert found.refined_share(1.0) == 0.25
    assert found.refined_share(0.0) == 0


def test_own_thresholds_are_those_that_hold(
    make_segmentor, visualizer
) -> None:
    """As of the predictions, inside a block of other settings, too."""
    model = make_segmentor(backbone__alpha=LADDER)
    item = make_item(64, 128)
    tau = elastic_tau(model, item, 3)
    with exit_settings(model, tau=tau):
        (found,) = picture_scope(model, [item], visualizer)
        batch = dict(
            inputs=[item['inputs']], data_samples=[item['data_samples']]
        )
        (sample,) = model.test_step(batch)
    assert found.tau == tau
    assert found.refined_share(1.0) == sample.refined_share == 0.5
    (found,) = picture_scope(model, [item], visualizer)
    assert (found.shares, found.tau) == ((1.0,), None)


def test_where_no_cell_is_worth_it_the_fine_answer_is_that_of_all(
    make_segmentor, visualizer
) -> None:
    """So that there is something to compare the coarse one with."""
    model = make_segmentor(backbone__alpha=LADDER)
    item = make_item(64, 96)
    (whole,) = picture_scope(model, [item], visualizer)
    assert not np.array_equal(whole.coarse, whole.fine)
    model.backbone.tau = 1e6
    (none,) = picture_scope(model, [item], visualizer)
    assert none.shares == (0.0,)
    assert not none.selected.any()
    assert np.array_equal(none.fine, whole.fine)
    assert np.array_equal(none.scores, whole.scores)


def test_windows_get_the_cells_that_they_need(
    make_segmentor, visualizer, tmp_path
) -> None:
    """The right one is all grey and exits."""
    model = make_segmentor(
        backbone__alpha=LADDER,
        backbone__cell_score=dict(type='mmscope.CellContrast'),
        backbone__tau=1e-3,
    )
    slide(model, stride=64)
    item = make_item(64, 128)
    item['inputs'][:, 32:] = item['inputs'][:, :, 64:] = 0.5
    (found,) = picture_scope(model, [item], visualizer)
    assert found.shares == (0.5, 0.0)
    assert found.exits(1.0) == [False, True]
    assert found.refined_share(1.0) == 0.25
    expected = np.zeros((64, 128), dtype=bool)
    expected[:32, :64] = True
    assert np.array_equal(found.selected, expected)
    draw_scope([found], 1.0, tmp_path / 'windows.png')


def test_a_model_that_never_refines_shows_importance(
    make_segmentor, visualizer
) -> None:
    """Nothing was scored."""
    model = make_segmentor(
        backbone__alpha=0.0,
        backbone__cell_score=dict(type='mmscope.CellContrast'),
    )
    (found,) = picture_scope(model, [make_item(64, 96)], visualizer)
    assert (found.label, found.shares) == ('importance', (0.0,))
    assert titles_of(found, 1.0)[0].endswith('no cell to refine: exits')

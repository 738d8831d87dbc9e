import numpy as np
import pytest
from PIL import Image

from mmscope.visualization import draw_contact_sheet, plot_sweep
from mmscope.visualization.exit_pictures import ExitPicture, paint

PALETTE = [[255, 0, 0], [0, 0, 255]]


def test_paint_uses_the_palette_and_black_for_no_class() -> None:
    painted = paint(np.array([[0, 1, 255]]), PALETTE)
    assert painted.tolist() == [[[255, 0, 0], [0, 0, 255], [0, 0, 0]]]


def picture(confidence: float) -> ExitPicture:
    labels = np.zeros((20, 30), dtype=np.int64)
    image = np.full((20, 30, 3), 128, dtype=np.uint8)
    return ExitPicture(image, labels, labels, labels + 1, confidence, 0.9, 1.0)


def test_contact_sheet_shows_both_answers(tmp_path) -> None:
    path = tmp_path / 'new' / 'sheet.png'
    draw_contact_sheet([picture(0.3), picture(0.9)], PALETTE, 0.7, path)
    pixels = np.asarray(Image.open(path).convert('RGB')).reshape(-1, 3)
    red = (pixels == PALETTE[0]).all(1).sum()
    blue = (pixels == PALETTE[1]).all(1).sum()
    # truth and coarse answer are red, the fine answer is blue
    assert red / blue == pytest.approx(2, rel=0.1)


def test_plot_is_written(tmp_path) -> None:
    sweep = [dict(eta=0.5, exit_rate=r, mIoU=50 - 10 * r) for r in (0, 0.5, 1)]
    plot_sweep(sweep, sweep, sweep, tmp_path / 'plot.png')
    width, height = Image.open(tmp_path / 'plot.png').size
    assert width > 400
    assert height > 300

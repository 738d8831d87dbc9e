import numpy as np
from PIL import Image

from mmscope.exits.plots import plot_stages, plot_sweep


def test_plots_are_written(tmp_path) -> None:
    sweep = [
        dict(eta=e, exit_rate=r, score=50 - 10 * r, gflops=9 - r)
        for e, r in ((0, 1), (0.5, 0.5), (1, 0))
    ]
    curve = [dict(r, deviation=1.0) for r in sweep]
    plot_sweep(sweep, dict(random=curve, mine=sweep), tmp_path / 'sweep.png')
    counts = dict(
        exited_right=2, exited_wrong=1, refined_right=3, refined_wrong=0
    )
    plot_stages(
        [dict(counts, eta=r['eta']) for r in sweep],
        sweep,
        tmp_path / 'stages.png',
    )
    correct = dict(coarse_right=5, coarse_wrong=0, fine_right=0, fine_wrong=1)
    plot_stages(
        [dict(counts, **correct, eta=r['eta']) for r in sweep],
        sweep,
        tmp_path / 'correct.png',
    )
    bars = (tmp_path / name for name in ('stages.png', 'correct.png'))
    one, other = (np.asarray(Image.open(path)) for path in bars)
    assert one.shape != other.shape or (one != other).any()
    # GFLOPs take a second panel
    assert Image.open(tmp_path / 'sweep.png').width > 800
    assert min(Image.open(tmp_path / 'stages.png').size) > 300

"""The weights that come with the package are the demo's, and have learned."""

import json
from pathlib import Path

CONFIG = 'mmscope::demo/mambascope_demo.py'
WEIGHTS = 'mmscope::demo/mambascope_demo.pth'


def test_they_answer_images_that_they_never_saw(
    run_tool, sample_root: Path, tmp_path: Path
) -> None:
    """Weights that fit the config, and do not just load."""
    run_tool(
        *('test.py', CONFIG, WEIGHTS),
        *('--work-dir', tmp_path / 'work', '--out', tmp_path / 'out'),
        *('--cfg-options', f'test_dataloader.dataset.data_root={sample_root}'),
    )
    metrics = json.loads((tmp_path / 'out/metrics.json').read_text())
    assert metrics['mIoU'] > 60


def test_they_draw_the_first_pictures(
    run_tool, sample_root: Path, tmp_path: Path
) -> None:
    run_tool(
        *('visualize_scope.py', 'val', CONFIG, WEIGHTS),
        *('--num-images', 2, '--out-dir', tmp_path / 'first'),
        *('--cfg-options', f'test_dataloader.dataset.data_root={sample_root}'),
    )
    assert (tmp_path / 'first/sheet.png').stat().st_size > 10_000

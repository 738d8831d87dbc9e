"""Memory stays flat in training and in inference."""

from pathlib import Path

import pytest
from single_run import single_run

from benchmarks.soak import growth, infer, tiny_demo, train

BOUND = 32  # MiB once settled, of some 900


def test_growth_tells_a_leak_from_a_peak() -> None:
    assert growth([100.0 + step for step in range(100)]) == 60
    flat = [900.0] * 100
    flat[50] = 2000.0
    assert growth(flat) == 0


@pytest.mark.slow
def test_memory_stays_flat(tmp_path: Path) -> None:
    with single_run():
        cfg = tiny_demo(tmp_path, iterations=500)
        assert growth(train(cfg)) < BOUND
        sizes = infer(cfg, images=2000)
    assert len(sizes) == 2000
    assert growth(sizes) < BOUND

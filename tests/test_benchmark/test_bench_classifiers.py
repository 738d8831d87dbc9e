"""fps_bench on classifiers: the backbone, and why nothing behind it."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from mmscope.benchmark.cases import FpsPlan
from mmscope.benchmark.models import prepare_model
from mmscope.benchmark.report import remarks
from mmscope.benchmark.run import bench_fps

CONFIGS = Path(__file__).parents[2] / 'configs/evidence'
SIZE = (32, 48)
PICTURES = [np.full((*SIZE, 3), 80 * n, np.uint8) for n in range(2)]


@pytest.fixture(scope='module')
def records():
    models = [
        prepare_model(name, Config.fromfile(CONFIGS / f'imagenette_{name}.py'))
        for name in ('paper', 'vim')
    ]
    plan = FpsPlan(forced=(0.5,), sizes=(SIZE,), batch_sizes=(2,), repeats=1)
    return bench_fps(models, PICTURES, plan, memory=False)


def test_their_backbones_are_timed(records):
    found = {
        (r.case.model, r.case.forced): r
        for r in records
        if r.case.scope == 'backbone' and r.time is not None
    }
    assert set(found) == {('paper', None), ('paper', 0.5), ('vim', None)}
    assert all(r.fps > 0 and r.gflops > 0 for r in found.values())
    assert found['paper', 0.5].exit_rate == 0.5
    # a coarse pass and half a fine one
    ratio = found['paper', 0.5].gflops / found['vim', None].gflops
    assert 0.6 < ratio < 0.9


def test_what_they_lack_is_said(records):
    lacking = [r for r in records if r.case.scope != 'backbone']
    assert lacking and all(r.time is None for r in lacking)
    for record in lacking:
        assert 'no pyramid can be made' in record.reason
        assert '--scopes backbone' in record.reason
        assert record.params == 0
    lines = '\n'.join(remarks(records))
    assert 'paper was not measured: no pyramid' in lines

"""Shares of cells in fps_bench: forced, or as many as an image needs."""

import json
from dataclasses import replace
from itertools import product
from math import ceil

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import Tensor
from traced_flops import traced_flops

from mmscope.benchmark import run as fps_bench
from mmscope.benchmark.bound import compare
from mmscope.benchmark.build import build_model
from mmscope.benchmark.cases import (
    FpsCase,
    FpsPlan,
    FpsRecord,
    describe_exits,
)
from mmscope.benchmark.inputs import make_batches
from mmscope.benchmark.jobs import (
    flops_of,
    gflops_of,
    make_job,
    refined_cells,
)
from mmscope.benchmark.models import SCOPES, BenchModel, prepare_model
from mmscope.benchmark.plot import plot_fps
from mmscope.benchmark.report import fps_table, save
from mmscope.benchmark.run import bench_fps
from mmscope.benchmark.timing import Timing
from mmscope.models import CellScore, Evidence
from mmscope.ops import scan_backends
from mmscope.utils.flops import model_flops

SIZE, CELLS = (64, 96), 6
PLAN = FpsPlan(
    etas=(1.0,), shares=(0.5, 1.0), sizes=(SIZE,), batch_sizes=(4,), repeats=1
)
PICTURES = [
    np.random.default_rng(n).integers(0, 256, (*SIZE, 3), np.uint8)
    for n in range(4)
]
ELASTIC = dict(
    alpha=(0.2, 0.5, 1.0),
    cell_score=dict(type='mmscope.CoarseUncertainty'),
    unselected='drop',
    num_context=1,
)
needs_operators = pytest.mark.skipif(
    bool(scan_backends()['cpu']), reason='the C++ operators are not built'
)


@pytest.fixture
def build(tiny_config):
    """Build the tiny model with other options of its backbone."""

    def make(base: str = 'mambascope_t_ade20k', **options) -> BenchModel:
        more = f"model['backbone'].update({options})\n"
        cfg = Config.fromfile(tiny_config(more, base))
        return prepare_model('some', cfg)

    return make


def case_of(scope: str = 'head', **options) -> FpsCase:
    options = dict(exit_resolution='coarse', batch_size=4) | options
    batch = options.pop('batch_size')
    case = FpsCase('some', scope, SIZE, batch, 'fp32', 'auto', 'cpu')
    return replace(case, **options)


def batches_of(bench: BenchModel, size: int = 4, number: int = 1) -> list:
    return make_batches(PICTURES, bench, SIZE, size, number, 'cpu')


class ByRow(CellScore):
    """Decodes, and wants 0, 1, 3 and 6 cells of four images."""

    decodes = True

    def forward(self, evidence: Evidence) -> Tensor:
        evidence.decode()
        wanted = torch.tensor([[0], [1], [3], [6]])
        return (torch.arange(CELLS) < wanted).float()


def by_need(bench: BenchModel) -> BenchModel:
    """Let images get 0, 2, 3 and 6 cells, the shares of ELASTIC."""
    bench.net.cell_score, bench.net.tau = ByRow(), 0.5
    return bench


def instant(jobs: dict, *_, **__) -> dict:
    """What time_in_turns returns, without running anything."""
    return dict.fromkeys(jobs, Timing(100.0, 80.0, 20.0, 3, 1.0, 1.0))


@needs_operators
@pytest.mark.parametrize('tau', [None, 9.0])
@pytest.mark.parametrize('options', [dict(alpha=0.8), ELASTIC])
def test_a_forced_share_does_the_work_that_is_reported(
    build, options, tau
) -> None:
    """Whatever tau is: hardly a score is above 9, so that all would exit."""
    bench = build(tau=tau, **options)
    batches = batches_of(bench, 2, 2)
    for scope, resolution, share in product(
        SCOPES, ('coarse', 'fine'), (0.35, 1.0)
    ):
        case = case_of(scope, share=share, exit_resolution=resolution)
        cells = refined_cells(case, bench, batches)
        assert cells.tolist() == [ceil(share * CELLS)] * 4
        ran = traced_flops(make_job(case, bench, batches))
        flops = flops_of(case, bench)
        reported = gflops_of(flops, scope, 0.0, (cells / CELLS).tolist())
        assert ran.total() / 4e9 == pytest.approx(reported, rel=1e-9)


@needs_operators
@pytest.mark.parametrize('scope', SCOPES)
def test_the_decode_of_a_policy_counts_wherever_a_scope_ends(
    build, scope
) -> None:
    """The paper's cells, and exits by the pixels of the coarse answer."""
    bench = build(alpha=0.8, exit_policy=dict(type='mmscope.PixelConfidence'))
    batches = batches_of(bench, 2, 2)
    for eta in (1.0, None):
        case = case_of(scope, eta=eta, forced=None if eta else 0.5)
        ran = traced_flops(make_job(case, bench, batches))
        rate = (refined_cells(case, bench, batches) == 0).float().mean()
        assert rate.item() == (0 if eta else 0.5)
        reported = gflops_of(flops_of(case, bench), scope, rate.item())
        assert ran.total() / 4e9 == pytest.approx(reported, rel=1e-9)


@pytest.mark.parametrize('options', [dict(), ELASTIC])
def test_a_forced_share_costs_what_a_model_of_that_alpha_does(
    tiny_config, build, options
) -> None:
    plan = replace(PLAN, scopes=('head',), exit_resolutions=('coarse',))
    records = bench_fps([build(**options)], PICTURES, plan, memory=False)
    found = {r.case.share: r for r in records if r.case.share}
    for share in plan.shares:
        more = dict(options, alpha=share, exit_resolution='coarse')
        more = f"model['backbone'].update({more})\n"
        model = build_model(Config.fromfile(tiny_config(more)))
        expected = model_flops(model, SIZE).refined.total()
        record = found[share]
        assert record.gflops == pytest.approx(expected / 1e9, rel=1e-9)
        assert (record.exit_rate, record.mean_share) == (0, share)
    assert found[0.5].gflops < found[1.0].gflops


@needs_operators
@pytest.mark.parametrize(
    ('exits', 'expected'),
    [(dict(eta=1.0), [0, 2, 3, 6]), (dict(forced=0.5), [0, 0, 3, 6])],
)
def test_an_elastic_model_is_counted_by_what_each_image_got(
    build, exits, expected
) -> None:
    bench = by_need(build(**ELASTIC))
    batches = batches_of(bench)
    for scope, resolution in product(SCOPES, ('coarse', 'fine')):
        case = case_of(scope, exit_resolution=resolution, **exits)
        cells = refined_cells(case, bench, batches)
        assert cells.tolist() == expected
        ran = traced_flops(make_job(case, bench, batches))
        got = (cells / CELLS).tolist()
        reported = gflops_of(flops_of(case, bench), scope, None, got)
        assert ran.total() / 4e9 == pytest.approx(reported, rel=1e-9)


def test_natural_rows_say_the_mean_share(build, monkeypatch) -> None:
    monkeypatch.setattr(fps_bench, 'time_in_turns', instant)
    bench = by_need(build(**ELASTIC))
    plan = replace(PLAN, shares=(), scopes=('backbone', 'head'))
    records = bench_fps([bench], PICTURES, plan, memory=False)
    # at eta 1 images still exit by tau, so that both resolutions differ
    assert len(records) == 4
    flops = model_flops(bench.model, SIZE)
    paths = [flops.exited, *flops.by_share.values()]
    expected = sum(path.total() for path in paths) / 4e9
    for record in records:
        assert record.exit_rate == 0.25
        assert record.mean_share == pytest.approx(11 / 24, abs=1e-6)
        # of the refined cells, of a token of context, and of CLS
        assert record.fine_tokens == (4 * 11 + 2 + 3) / 3
    own = records[3]
    assert own.case.exit_resolution == bench.net.exit_resolution == 'coarse'
    assert own.gflops == pytest.approx(expected, rel=1e-9)
    columns = [str(c.header) for c in fps_table(records).columns]
    assert 'mean share' in columns


def test_rows_of_one_alpha_stay_what_they_are(build, monkeypatch) -> None:
    monkeypatch.setattr(fps_bench, 'time_in_turns', instant)
    bench = build()
    without, beside = (
        bench_fps([bench], PICTURES, plan, memory=False)
        for plan in (replace(PLAN, shares=()), PLAN)
    )
    natural = [r for r in beside if r.case.share is None]
    assert natural == without
    assert {r.mean_share for r in without} == {None}
    assert {r.fine_tokens for r in without} == {None}
    columns = [str(c.header) for c in fps_table(without).columns]
    assert 'mean share' not in columns
    flops = model_flops(bench.model, SIZE)
    [head] = [r for r in without if r.case.scope == 'head']
    assert head.gflops == flops.refined.total() / 1e9
    # one row for each scope and share: nobody exits at either resolution
    assert len(beside) - len(natural) == 6


def test_shares_of_as_many_cells_are_measured_once(build, monkeypatch) -> None:
    monkeypatch.setattr(fps_bench, 'time_in_turns', instant)
    # 5 of 6 cells, as the model's own 0.8
    plan = replace(PLAN, shares=(0.5, 0.75), scopes=('backbone',))
    records = bench_fps([build()], PICTURES, plan, memory=False)
    [note] = [r.note for r in records if r.case.share == 0.75]
    assert note == 'share 0.75 is the same work as eta 1, measured once'
    assert [r.note for r in records if r.case.share == 0.5] == [None]


def test_only_models_that_refine_cells_get_rows(build, monkeypatch) -> None:
    monkeypatch.setattr(fps_bench, 'time_in_turns', instant)
    plan = replace(PLAN, scopes=('backbone',))
    vim = build('vim_t_ade20k')
    assert [c.share for c in plan.cases(vim, SIZE, 4)] == [None]
    bench = replace(vim, name='plain')
    bench.model.backbone = build().net
    bench.net.exit_head = None
    records = bench_fps([bench], PICTURES, plan, memory=False)
    assert [describe_exits(r.case) for r in records] == [
        *('-', 'share 0.5', 'share 1')
    ]
    assert [r.exit_rate for r in records] == [None, 0, 0]
    assert [r.mean_share for r in records] == [None, 0.5, 1]


def test_the_bound_knows_share_and_dropped_cells(build) -> None:
    vim = replace(build('vim_t_ade20k'), name='vim')

    def bound(record: FpsRecord, **options) -> float:
        models = dict(vim=vim, some=build(alpha=1.0, **options))
        vims = [case_of(s, exit_resolution=None) for s in ('backbone', 'head')]
        vims = [replace(case, model='vim') for case in vims]
        time = [
            Timing(ms, ms, 0.0, 3, ms, ms)
            for ms in (10.0, 40.0, 20.0)  # the head takes 3 backbones
        ]
        records = [
            replace(record, time=time)
            for record, time in zip(
                [*(FpsRecord(v, 1) for v in vims), record], time, strict=True
            )
        ]
        return compare(records, models)[-1].bound

    half = FpsRecord(case_of(share=0.5), 1, 0.0)
    drop, context = dict(unselected='drop'), dict(num_context=2)
    # 25 tokens of Vim, 7 of the coarse pass, 12 of three refined cells
    assert bound(half) == pytest.approx(4 / ((7 + 16) / 25 + 3))
    assert bound(half, **drop) == pytest.approx(4 / ((7 + 13) / 25 + 3))
    found = bound(half, **drop, **context)
    assert found == pytest.approx(4 / ((7 + 15) / 25 + 3))
    # no more context than cells are left
    most = FpsRecord(case_of(share=0.8), 1, 0.0)
    found = bound(most, **drop, **context)
    assert found == pytest.approx(4 / ((7 + 22) / 25 + 3))
    # natural rows go by what was measured, half of the images exited
    natural = FpsRecord(case_of(eta=0.7), 1, 0.5, fine_tokens=10.0)
    found = bound(natural, **drop)
    assert found == pytest.approx(4 / ((7 + 5) / 25 + 1.5 + 0.375))


def test_shares_are_in_files_tables_and_pictures(
    build, tmp_path, monkeypatch
) -> None:
    plan = replace(PLAN, scopes=('backbone',), batch_sizes=(1,))
    records = bench_fps([build(**ELASTIC)], PICTURES, plan, memory=False)
    path = tmp_path / 'fps.json'
    save(path, dict(device='x'), records)
    written = json.loads(path.read_text())['records']
    read = [
        FpsRecord(
            **{
                **one,
                'case': FpsCase(
                    **{**one['case'], 'size': tuple(one['case']['size'])}
                ),
                'time': Timing(**one['time']),
            }
        )
        for one in written
    ]
    assert read == records
    table = fps_table(records)
    cells = {str(c.header): list(c.cells) for c in table.columns}
    hows = ['eta 1', 'share 0.5', 'share 1']
    assert [h for h in cells['exits'] if '1/32' not in h] == hows
    assert set(cells['mean share']) == {'0.5000', '1.0000'}
    drawn = []
    monkeypatch.setattr(
        'mmscope.benchmark.plot.save_figure', lambda f, _: drawn.append(f)
    )
    plot_fps(records, 'x', path)
    labels = drawn[0].axes[0].get_legend_handles_labels()[1]
    assert 'some, share 0.5' in labels


@pytest.mark.parametrize('share', [0.0, -0.5, 1.2, float('nan')])
def test_shares_out_of_range_are_refused(share) -> None:
    message = rf'--force-share must be in \(0, 1\], .* got {share:g}; '
    with pytest.raises(ValueError, match=message + '--force-exit 1'):
        replace(PLAN, shares=(0.5, share)).check()

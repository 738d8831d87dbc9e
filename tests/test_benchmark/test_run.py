"""What fps_bench runs and what it makes of the times."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from traced_flops import traced_flops

from benchmarks.scan_bench import save
from mmscope.benchmark import run as fps_bench
from mmscope.benchmark.bound import compare, speed_bound
from mmscope.benchmark.cases import FpsCase, FpsPlan, FpsRecord
from mmscope.benchmark.inputs import fit, make_batches, read_images
from mmscope.benchmark.jobs import (
    flops_of,
    gflops_of,
    make_job,
    refined_cells,
)
from mmscope.benchmark.models import (
    BenchModel,
    named_config,
    prepare_model,
    run_batch,
)
from mmscope.benchmark.plot import plot_fps
from mmscope.benchmark.report import crossing, fps_table, remarks
from mmscope.benchmark.run import bench_fps, count_steps
from mmscope.benchmark.timing import Timing
from mmscope.models import exit_settings
from mmscope.models.block_graphs import BlockGraphs
from mmscope.ops import scan_backends

SIZE = (64, 96)
PLAN = FpsPlan(
    etas=(1.0,), forced=(0.5, 1.0), sizes=(SIZE,), batch_sizes=(2,), repeats=1
)
PICTURES = [np.full((64, 96, 3), 40 * i, np.uint8) for i in range(4)]


def build(config: Path, name: str, **options: object) -> BenchModel:
    return prepare_model(name, Config.fromfile(config), **options)


@pytest.fixture(scope='module')
def scoped(tiny_config) -> BenchModel:
    return build(tiny_config(), 'mambascope')


@pytest.fixture(scope='module')
def vim(tiny_config) -> BenchModel:
    return build(tiny_config('', 'vim_t_ade20k'), 'vim')


def case_of(bench: BenchModel, **options: object) -> FpsCase:
    case = FpsCase(bench.name, 'head', SIZE, 2, 'fp32', 'auto', 'cpu')
    if bench.early_exit:
        case = replace(case, exit_resolution='coarse')
    return replace(case, **options)


def rate_of(case: FpsCase, bench: BenchModel, batches: list) -> float:
    cells = refined_cells(case, bench, batches)
    return (cells == 0).float().mean().item()


def record(
    model: str, milliseconds: float | None, scope: str = 'head', **options
) -> FpsRecord:
    case_options = {
        k: options.pop(k) for k in ('size', 'exit_resolution') if k in options
    }
    case = FpsCase(model, scope, SIZE, 2, 'fp32', 'auto', 'cpu')
    case = replace(case, **case_options)
    if milliseconds is None:
        return FpsRecord(case, 1, reason='too big')
    time = Timing(*[milliseconds] * 2, 0.0, 3, *[milliseconds] * 2)
    return FpsRecord(case, 1, time=time, fps=1e3 / milliseconds, **options)


@pytest.mark.skipif(
    bool(scan_backends()['cpu']), reason='the C++ operators are not built'
)
@pytest.mark.parametrize('scope', ['backbone', 'fpn', 'head'])
@pytest.mark.parametrize('resolution', ['coarse', 'fine'])
@pytest.mark.parametrize(
    'exits', [dict(eta=1.0), dict(forced=0.5), dict(forced=1.0)]
)
def test_a_job_does_the_work_that_is_reported(
    scoped, scope, resolution, exits
) -> None:
    case = case_of(scoped, scope=scope, exit_resolution=resolution, **exits)
    batches = make_batches(PICTURES, scoped, SIZE, 2, 1, 'cpu')
    rate = rate_of(case, scoped, batches)
    assert rate == exits.get('forced', 0.0)
    ran = traced_flops(make_job(case, scoped, batches))
    reported = gflops_of(flops_of(case, scoped), scope, rate)
    assert ran.total() / 2e9 == pytest.approx(reported, rel=1e-9)


PIXELS = "model['backbone']['exit_policy'] = dict(type='{}')\n".format(
    'mmscope.PixelConfidence'
)


@pytest.mark.parametrize('resolution', ['coarse', 'fine'])
def test_an_exit_policy_is_asked_as_in_inference(
    tiny_config, resolution
) -> None:
    """It decides, and the coarse maps are decoded for it, once.

    So they are where the decision is forced.
    """
    bench = build(tiny_config(PIXELS), 'pixels')
    batches = make_batches(PICTURES, bench, SIZE, 4, 1, 'cpu')
    images, _ = batches[0]
    with torch.no_grad(), exit_settings(bench.model, resolution=resolution):
        found = [s.exit_confidence for s in bench.model.predict(images)]
    eta = sum(sorted(found)[1:3]) / 2
    options = dict(exit_resolution=resolution, batch_size=4)
    work = []
    for exits in (dict(eta=eta), dict(forced=0.5)):
        case = case_of(bench, **options, **exits)
        rate = rate_of(case, bench, batches)
        assert rate == 0.5
        ran = traced_flops(make_job(case, bench, batches))
        reported = gflops_of(flops_of(case, bench), 'head', rate)
        assert ran.total() / 4e9 == pytest.approx(reported, rel=1e-9)
        work.append(ran)
    assert work[0] == work[1]


def test_exits_are_those_of_the_backbone(scoped) -> None:
    """Natural exits are counted, and forcing leaves nothing behind."""
    batches = make_batches(PICTURES, scoped, SIZE, 4, 1, 'cpu')
    images, valid = batches[0]
    with torch.no_grad():
        confidence = scoped.net.scope(images, valid).confidence
    eta = confidence.sort().values[1:3].mean().item()
    make_job(case_of(scoped, forced=1.0), scoped, batches)()
    for threshold, expected in ((eta, 0.5), (0.0, 1.0), (1.0, 0.0)):
        case = case_of(scoped, eta=threshold)
        assert rate_of(case, scoped, batches) == expected


def test_all_models_are_measured_in_one_run(scoped, vim, tmp_path) -> None:
    steps = []
    records = bench_fps(
        [scoped, vim], PICTURES, PLAN, step=lambda: steps.append(1)
    )
    assert len(steps) == count_steps([scoped, vim], PLAN)
    names = [(r.case.model, r.case.scope) for r in records]
    assert names.count(('vim', 'head')) == 1
    # eta = 1 once, both forced shares at either resolution
    assert names.count(('mambascope', 'head')) == 5
    assert names.count(('mambascope', 'backbone')) == 3
    for one in records:
        assert one.reason is None
        assert one.fps == pytest.approx(1e3 / one.time.median)
        assert one.vs_vim > 0
        assert one.memory is None or one.memory >= 0
        assert (one.share_of_bound is None) is (one.exit_rate is None)
    save(tmp_path / 'fps.json', dict(device='x'), records)
    written = json.loads((tmp_path / 'fps.json').read_text())
    assert len(written['records']) == len(records)
    assert fps_table(records).row_count == len(records)
    plot_fps(records, 'some device', tmp_path / 'deep' / 'fps.png')
    assert (tmp_path / 'deep' / 'fps.png').stat().st_size > 1000


def test_one_exit_resolution_is_measured_whatever_exits(scoped) -> None:
    plan = replace(PLAN, forced=(), exit_resolutions=('coarse',))
    records = bench_fps([scoped], PICTURES, plan, memory=False)
    assert [r.case.scope for r in records] == ['backbone', 'fpn', 'head']


def test_speed_bound_of_the_issue_s_cases() -> None:
    """Design, section 8: c = .25, f = .85."""
    parts = dict(coarse=0.25, fine=0.85)
    tail = dict(head=3.3, refined_tail=3.3)
    none = speed_bound(
        **parts, head=0, exit_rate=1, refined_tail=0, exited_tail=0
    )
    assert none == pytest.approx(4)
    head = speed_bound(**parts, **tail, exit_rate=1, exited_tail=3.3)
    assert head == pytest.approx(1.21, abs=0.005)
    coarse = speed_bound(**parts, **tail, exit_rate=1, exited_tail=3.3 / 4)
    assert coarse == pytest.approx(4)
    never = speed_bound(**parts, **tail, exit_rate=0, exited_tail=3.3)
    assert never == pytest.approx(4.3 / 4.4)


def test_bound_takes_the_head_of_the_same_run(scoped, vim) -> None:
    models = dict(mambascope=scoped, vim=vim)
    records = [
        record('vim', 10.0, 'backbone'),
        record('vim', 40.0),
        record('mambascope', 20.0, exit_rate=1.0, exit_resolution='fine'),
        record('mambascope', 20.0, exit_rate=1.0, exit_resolution='coarse'),
    ]
    _, _, fine, coarse = compare(records, models)
    assert fine.vs_vim == coarse.vs_vim == 2
    # 24 cells, 6 of them coarse, and h = 3
    assert fine.bound == pytest.approx(4 / (7 / 25 + 3))
    assert coarse.bound == pytest.approx(4 / (7 / 25 + 3 / 4))
    assert coarse.share_of_bound == pytest.approx(2 / coarse.bound)
    alone = compare([records[1], records[2]], models)
    assert alone[1].vs_vim == 2
    assert alone[1].bound is None


def test_the_crossing_is_named() -> None:
    records = [
        record(name, ms, size=(side, side))
        for side, vim_ms, deit_ms in ((512, 20.0, 10.0), (1024, 40.0, 80.0))
        for name, ms in (('vim_t', vim_ms), ('deit_t', deit_ms))
    ]
    line = crossing(records, 'vim_t', 'deit_t', 'head')
    assert '0.50 at 512x512, 2.00 at 1024x1024' in line
    assert 'cross near 724 pixels' in line
    assert line in remarks(records)
    assert crossing(records[:2], 'vim_t', 'deit_t', 'head') is None


def test_what_could_not_run_is_said() -> None:
    records = [record('vim', 3.0), record('deit', None)]
    assert fps_table(records).row_count == 1
    assert remarks(records) == ['deit was not measured: too big']


@pytest.mark.parametrize('sides', [(64, 96), (70, 90)])
def test_inputs_are_those_of_the_preprocessor(scoped, sides) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*sides, 3), np.uint8) for _ in range(2)]
    [(images, valid)] = make_batches(pictures, scoped, sides, 2, 1, 'cpu')
    bgr = [
        torch.from_numpy(p[..., ::-1].copy()).permute(2, 0, 1)
        for p in pictures
    ]
    expected = scoped.model.data_preprocessor(dict(inputs=bgr))
    torch.testing.assert_close(images, expected['inputs'])
    if sides == (64, 96):
        assert valid is None
    else:
        inputs = expected['inputs']
        with scoped.model.showing(inputs, expected['data_samples']):
            result = scoped.net.coarse(inputs)
        assert torch.equal(valid.flatten(1), result.valid)


def test_images_are_scaled_to_cover_and_cropped() -> None:
    image = np.zeros((50, 200, 3), np.uint8)
    image[:, 100:] = 255
    fitted = fit(image, (100, 100))
    assert fitted.shape == (100, 100, 3)
    assert fitted[:, :48].max() == 0
    assert fitted[:, 52:].min() == 255
    assert fit(image, (50, 200)) is not None
    assert np.array_equal(fit(image, (50, 200)), image)


def test_a_batch_has_different_images(sample_root, scoped) -> None:
    pictures = read_images(sample_root / 'images' / 'validation', 4)
    [(images, _)] = make_batches(pictures, scoped, SIZE, 4, 1, 'cpu')
    assert len({float(image.sum()) for image in images}) == 4


def test_bad_images_are_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match='missing does not exist'):
        read_images(tmp_path / 'missing', 1)
    with pytest.raises(FileNotFoundError, match='has no image; allowed are'):
        read_images(tmp_path, 1)
    (tmp_path / 'broken.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match='broken.png cannot be read'):
        read_images(tmp_path, 1)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(etas=(1.2,)), r'--eta must be in \[0, 1\], got 1.2'),
        (dict(forced=(-1,)), r'--force-exit must be in \[0, 1\], got -1'),
        (dict(forced=(0.25,)), '0.25 of a batch of 2 is no whole number'),
        (dict(sizes=((31, 64),)), 'at least 32 pixels.* got 31x64'),
        (dict(batch_sizes=(0,)), '--batch-size must be at least 1, got 0'),
        (dict(repeats=0), '--repeats must be at least 1, got 0'),
        (dict(dtype='fp16'), '--dtype fp16 needs a GPU'),
    ],
)
def test_bad_plans_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PLAN, **options).check()


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (
            "model['backbone']['out_type'] = 'cls_token'\n",
            "out_type='featmap'",
        ),
        (
            "model['neck'] = None\n"
            "model['backbone']['out_indices'] = (1, 3)\n",
            'give it a neck, or a backbone with four out_indices',
        ),
    ],
)
def test_a_backbone_without_pyramid_says_why(
    tiny_config, more, message
) -> None:
    bench = build(tiny_config(more, 'vim_t_ade20k'), 'vim')
    assert bench.why_not('backbone') is None
    for scope in ('fpn', 'head'):
        assert message in bench.why_not(scope)


def test_memory_is_a_passes_without_what_graphs_keep(tiny_config) -> None:
    bench = build(tiny_config(), 'mambascope')
    kept = []

    class Graphs(BlockGraphs):
        """Never empty but when it was cleared."""

        def clear(self) -> None:
            kept.clear()

        def __call__(self, run, layers, x, settings=None):
            seen.append(list(kept))
            kept.append(x.shape)
            return run(x)

    seen, bench.net.block_graphs = [], Graphs()
    plan = replace(PLAN, forced=(), scopes=('backbone',))
    bench_fps([bench], PICTURES, plan, memory=True)
    # the pass whose memory is measured is the last
    assert [] in seen[-2:] and seen[0] == []
    assert sum(one == [] for one in seen) == 2


def test_a_plain_backbone_gets_a_pyramid(tiny_config) -> None:
    config = tiny_config("model['neck'] = None\n", 'vim_t_ade20k')
    bench = build(config, 'vim')
    maps = run_batch(bench, 'fpn', torch.zeros(1, 3, 64, 64), None)[0]
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 2]


def test_full_fpn_adds_that_of_mmdet(tiny_config) -> None:
    config = tiny_config('', 'vim_t_ade20k')
    bench = build(config, 'vim', fpn='full')
    with torch.no_grad():
        image = torch.zeros(1, 3, 64, 64)
        [maps] = run_batch(bench, 'fpn', image, None)
    assert [m.shape[1] for m in maps] == [256] * 5
    assert bench.parameters('fpn') > build(config, 'v').parameters('fpn')


def test_names_stand_for_configs() -> None:
    cfg = named_config('mambascope_b')
    assert cfg.model.backbone.arch == 'base'
    assert cfg.model.decode_head.in_channels == [768] * 4
    with pytest.raises(ValueError, match="--models takes .* got 'vim_x'"):
        named_config('vim_x')


def test_a_time_is_that_of_one_image(vim, monkeypatch) -> None:
    def take_turns(jobs: dict, *_: object, **__: object) -> dict:
        return dict.fromkeys(jobs, Timing(100.0, 80.0, 20.0, 3, 100.0, 110.0))

    monkeypatch.setattr(fps_bench, 'time_in_turns', take_turns)
    plan = replace(PLAN, scopes=('backbone',), batches=2)
    [one] = bench_fps([vim], PICTURES, plan, memory=False)
    assert one.time == Timing(25.0, 20.0, 5.0, 3, 100.0, 110.0)
    assert one.fps == 40


def test_equal_work_is_measured_once(scoped, monkeypatch) -> None:
    """All etas at which the same images exit, forced exits included."""
    timed = []

    def take_turns(jobs: dict, *_: object, **__: object) -> dict:
        timed.extend(jobs)
        return {
            case: Timing(float(n), 1.0, 0.1, 3, 1.0, 1.0)
            for n, case in enumerate(jobs, 1)
        }

    monkeypatch.setattr(fps_bench, 'time_in_turns', take_turns)
    plan = replace(
        PLAN, etas=(0.999, 0.9999, 1.0), forced=(0.0, 1.0), scopes=('fpn',)
    )
    records = bench_fps([scoped], PICTURES, plan, memory=False)
    hows = [(case.eta, case.forced) for case in timed]
    # eta = 1 is told apart: nobody asks which images exit
    assert hows == [(0.999, None), (1.0, None), (None, 1.0), (None, 1.0)]
    by_how = {(r.case.eta, r.case.forced): r for r in records}
    first, twin = by_how[0.999, None], by_how[None, 0.0]
    assert twin.fps == by_how[0.9999, None].fps == first.fps
    assert twin.note == (
        'forced 0 is the same work as eta 0.999, measured once'
    )
    assert first.note is None
    assert f'mambascope: {twin.note}' in remarks(records)


def test_a_batch_that_does_not_fit_is_halved(vim, scoped, monkeypatch) -> None:
    tried = []

    def take_turns(jobs: dict, *_: object, fatal: tuple, **__: object) -> dict:
        batch = next(iter(jobs)).batch_size
        tried.append(batch)
        if batch > 2 and fatal:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return dict.fromkeys(jobs, Timing(100.0, 80.0, 20.0, 3, 1.0, 1.0))

    monkeypatch.setattr(fps_bench, 'time_in_turns', take_turns)
    plan = replace(PLAN, batch_sizes=(8,), scopes=('backbone',))
    records = bench_fps([vim, scoped], PICTURES, plan, memory=False)
    assert tried == [8, 4, 2]
    assert {record.case.batch_size for record in records} == {2}
    assert records[0].fps == 20
    assert all('batch of 8 does not fit at 64x96' in r.note for r in records)
    # a third of an image cannot be forced: the error is the rows' reason
    odd = replace(plan, batch_sizes=(6,), forced=(1 / 6, 0.5))
    tried.clear()
    bench_fps([scoped], PICTURES, odd, memory=False)
    assert tried == [6]


def test_single_images_have_latencies(scoped) -> None:
    plan = replace(
        PLAN, batch_sizes=(1,), batches=3, forced=(1.0,), scopes=('backbone',)
    )
    records = bench_fps([scoped], PICTURES, plan, memory=False)
    for one in records:
        # a call is three images, each of them timed
        assert one.fps == pytest.approx(1e3 / one.time.median)
        assert one.time.p50 <= one.time.p99
        assert one.time.p50 == pytest.approx(one.time.median, rel=0.9)
    columns = [str(column.header) for column in fps_table(records).columns]
    assert {'p50 ms', 'p99 ms'} <= set(columns)


def test_a_share_of_single_images_can_be_forced(scoped) -> None:
    case = case_of(scoped, batch_size=1, forced=0.25)
    batches = make_batches(PICTURES, scoped, SIZE, 1, 4, 'cpu')
    exited = refined_cells(case, scoped, batches) == 0
    assert exited.tolist() == [True, False, False, False]
    ran = traced_flops(make_job(case, scoped, batches)).total()
    reported = gflops_of(flops_of(case, scoped), 'head', 0.25)
    assert ran / 4e9 == pytest.approx(reported, rel=1e-9)
    plan = replace(PLAN, batch_sizes=(1,), batches=4, forced=(0.25,))
    plan.check()
    with pytest.raises(ValueError, match='--num-batches of single images'):
        replace(plan, batches=2).check()


def test_records_are_kept_after_each_size(vim) -> None:
    kept = []
    plan = replace(
        PLAN, sizes=(SIZE, (64, 64)), forced=(), scopes=('backbone',)
    )
    bench_fps(
        *([vim], PICTURES, plan, False),
        keep=lambda records: kept.append(len(records)),
    )
    assert kept == [1, 2]


def test_the_official_sequence_is_a_row(tiny_config, vim) -> None:
    more = "model['backbone']['type'] = 'mmscope.OfficialVim'\n"
    official = build(tiny_config(more, 'vim_t_ade20k'), 'official_vim')
    assert official.is_official and not official.is_vim
    plan = replace(PLAN, scopes=('backbone',), forced=())
    records = bench_fps([official, vim], PICTURES, plan, memory=False)
    assert records[0].reason.startswith('RuntimeError: OfficialVim cannot run')
    assert records[0].gflops == records[1].gflops
    models = dict(official_vim=official, vim=vim)
    pair = [record('official_vim', 30.0), record('vim', 10.0)]
    slow, fast = compare(pair, models)
    assert (slow.vs_official, fast.vs_official) == (1, 3)
    assert (slow.vs_vim, fast.vs_vim) == (1 / 3, 1)
    assert named_config('official_vim_t').model.backbone.type == (
        'mmscope.OfficialVim'
    )


def test_a_picture_shows_what_was_measured(scoped, monkeypatch) -> None:
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(
        Figure, 'savefig', lambda self, *_, **__: drawn.append(self)
    )
    one = record('mambascope', 20.0, exit_rate=0.0, exit_resolution='fine')
    records = [
        replace(one, case=replace(one.case, eta=eta), log10_fps=1.7)
        for eta in (0.6, 0.7)
    ]
    smaller = record('vim', 10.0, size=(32, 32))
    smaller = replace(
        smaller, case=replace(smaller.case, batch_size=1), log10_fps=2.0
    )
    plot_fps([*records, smaller], 'x', 'fps.png')
    [figure] = drawn
    [axis] = figure.axes  # no empty panel for a memory nobody measured
    labels = axis.get_legend_handles_labels()[1]
    assert labels == ['mambascope, eta 0.6 = eta 0.7', 'vim']


def test_memory_can_be_left_out(vim, monkeypatch) -> None:
    def fail(*_: object) -> float:
        raise AssertionError

    monkeypatch.setattr(fps_bench, 'peak_memory', fail)
    plan = replace(PLAN, forced=(), scopes=('backbone',))
    [one] = bench_fps([vim], PICTURES, plan, memory=False)
    assert one.memory is None

import json
from dataclasses import asdict, replace

import pytest
import torch
from rich.console import Console

from benchmarks import scan_bench
from benchmarks.backbone_bench import bench_backbone, prepare_training
from benchmarks.scan_bench import ScanRecord, bench_scan, main
from benchmarks.scan_cases import ScanCase, prepare, refusals
from benchmarks.scan_contenders import BASELINE, contenders
from mmscope.benchmark.timing import Timing
from mmscope.ops import scan_backends

TINY = ScanCase(batch=2, dim=6, length=5, state=3)
BOTH = replace(TINY, passes='forward+backward')
ABLE = [name for name, why in refusals(TINY, ()).items() if why is None]


def test_every_contender_has_a_record_or_a_reason() -> None:
    records = bench_scan(BOTH, repeats=2, memory=False)
    assert [record.contender for record in records] == list(contenders())
    assert set(scan_backends()) < set(contenders())
    for record in records:
        able = record.contender in ABLE
        assert (record.time is not None) == able == (record.reason is None)
        assert not able or record.time.minimum <= record.time.median
        assert not able or record.ratio > 0


@pytest.mark.parametrize('name', [name for name in ABLE if name != BASELINE])
def test_contenders_compute_the_same(name: str) -> None:
    expected = prepare(BASELINE, TINY)().mT
    actual = prepare(name, TINY)()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ABLE)
def test_backward_reaches_every_input(name: str) -> None:
    out, *grads = prepare(name, BOTH)()
    assert out.requires_grad
    assert all(grad.isfinite().all() and grad.any() for grad in grads)


def test_backward_gets_the_same_gradient_in_any_layout() -> None:
    tokens = prepare('reference', BOTH)()[1]
    channels = prepare(BASELINE, BOTH)()[1]
    torch.testing.assert_close(channels.mT, tokens[0], rtol=1e-4, atol=1e-5)


def test_ratios_are_of_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {
        BASELINE: Timing(30.0, 24.0, 1.0, 9, 30.0, 31.0),
        'torch': Timing(3.0, 2.0, 0.1, 9, 3.0, 3.5),
        'reference': 'RuntimeError: too big',
    }
    monkeypatch.setattr(scan_bench, 'time_in_turns', lambda *_: times)
    records = bench_scan(TINY, list(times), memory=False)
    assert records[0] == ScanRecord(TINY, BASELINE, times[BASELINE], 1, 1)
    assert (records[1].ratio, records[1].ratio_of_minima) == (10, 12)
    assert records[2].reason == 'RuntimeError: too big'
    del times[BASELINE]
    assert bench_scan(TINY, ['torch'], memory=False)[0].ratio is None


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    bench_scan(replace(TINY, threads=before + 1), ['torch'], 1, memory=False)
    assert torch.get_num_threads() == before


def test_json_holds_all_records(tmp_path, monkeypatch) -> None:
    measured = []
    monkeypatch.setattr(scan_bench, 'show', lambda _, r: measured.extend(r))
    path = tmp_path / 'bench.json'
    sizes = '--batch 2 --dim 6 --length 3 4 --state 3 --threads 1 --repeats 1'
    main([*sizes.split(), '--no-memory', '--out', str(path)])
    report = json.loads(path.read_text())
    assert report['records'] == [asdict(record) for record in measured]
    assert len(measured) == 2 * 2 * len(contenders())
    known = {'device', 'torch', 'threads', 'git_revision', 'load_average'}
    assert known < set(report['environment'])
    case = ScanCase(**report['records'][-1]['case'])
    assert case == replace(BOTH, length=4)


@pytest.mark.parametrize(
    'given, message',
    [
        ('--length 0', 'length must be at least 1, got 0'),
        ('--threads 0', 'threads must be at least 1, got 0'),
        ('--repeats 0', 'repeats must be at least 1, got 0'),
        ('--backends nix', r"backends are \[.*mambapy.*got \['nix'\]"),
        ('--device tpu', "must be 'cpu', 'cuda' or .* got 'tpu'"),
        ('--backbone 8', 'at least 16 pixels'),
        ('--backbone 32 --backends nix', "got 'nix'"),
    ],
)
def test_bad_values_are_named(given: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main([*given.split(), '--no-memory'])


def test_bad_case_is_refused() -> None:
    for bad in (dict(dtype='int8'), dict(passes='backward')):
        with pytest.raises(ValueError, match='must be one of'):
            replace(TINY, **bad)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_gpu_is_refused_without_one() -> None:
    with pytest.raises(ValueError, match='torch finds none'):
        replace(TINY, device='cuda')


def test_tables_show_figures_and_reasons(capsys) -> None:
    records = [
        ScanRecord(
            TINY, 'torch', Timing(1.25, 1.0, 0.5, 3, 1.2, 1.3), 10.0, 11.0
        ),
        ScanRecord(TINY, 'mambapy', reason='it is not there'),
    ]
    scan_bench.show(Console(width=100), records)
    shown = capsys.readouterr().out
    assert all(text in shown for text in ('1.25', '10.0', 'forward, L=5'))
    assert 'mambapy cannot run: it is not there' in shown


def test_backbone_is_timed_with_the_share_of_the_scan() -> None:
    arch = dict(embed_dims=16, num_layers=2, d_state=2)
    options = dict(arch=arch, threads=1, repeats=1, memory=False)
    names = ['auto', 'torch', 'mamba_ssm']
    records = bench_backbone([32], names, **options)
    assert [r.precision for r in records] == ['float32', 'bfloat16'] * 3
    for record in records[:4]:
        assert record.time.minimum > 0 and record.reason is None
        assert 0 < record.scan_share < 1
    assert all("'mamba_ssm' cannot run" in r.reason for r in records[4:])


def test_backbone_trains_for_the_memory_figure() -> None:
    arch = dict(embed_dims=16, num_layers=8, d_state=2)
    grads = prepare_training(arch, 32, 'auto', 'bfloat16', 1)()
    assert all(grad.isfinite().all() for grad in grads)

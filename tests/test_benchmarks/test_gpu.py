"""benchmarks.gpu without a GPU: the dry run, its files, what goes wrong."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import gpu, gpu_benches, scan_contenders
from benchmarks.gpu_benches import DRY_RUN
from benchmarks.gpu_report import Report, Row
from benchmarks.scan_cases import ScanCase, make_inputs, prepare
from mmscope.benchmark.timing import Timing


@pytest.fixture
def report(tmp_path) -> Report:
    return Report(tmp_path / 'out', dict(device='x', gpu=dict(driver='1')), 60)


def test_a_dry_run_measures_everything(tmp_path, capsys) -> None:
    gpu.main(['--dry-run', '--out', str(tmp_path / 'out')])
    written = json.loads((tmp_path / 'out' / 'gpu.json').read_text())
    rows = written['rows']
    sections = [row['section'] for row in rows]
    assert list(dict.fromkeys(sections)) == [
        *('Machine', 'Agreement', 'Scan, forward'),
        *('Backbone', 'Training', 'Scan, forward+backward'),
    ]
    failed = [row for row in rows if row['note'] and row['time'] is None]
    assert {row['what'] for row in failed} == {
        'mamba_ssm',  # has no kernel here
        'ours to official_vim',
    }
    nets = [row for row in rows if row['section'] in ('Backbone', 'Training')]
    assert len(nets) == 6
    assert all(row['value'] > 0 and row['ratio'] > 0 for row in nets)
    markdown = (tmp_path / 'out' / 'gpu.md').read_text()
    assert markdown.count('\n## ') == 6
    assert '| B 2, L 9, Dim 8, bfloat16 | cpu |' in markdown
    assert '## Training' in capsys.readouterr().out


def test_both_nets_agree() -> None:
    [row] = gpu_benches.bench_agreement(DRY_RUN)
    assert row.value < 1e-5
    assert 'scan reference' in row.note


def test_a_spent_budget_leaves_out_the_rest(report) -> None:
    gpu.measure(DRY_RUN, replace(report, budget=0, rows=report.rows))
    assert {row.what for row in report.rows} == {'all'}
    assert all('budget of 0 s is spent' in row.note for row in report.rows)


def test_a_failure_costs_no_other_row(report, monkeypatch) -> None:
    def fail(*_: object) -> list[Row]:
        raise MemoryError('too big\nby far')

    monkeypatch.setattr(gpu, 'bench_nets', fail)
    gpu.measure(DRY_RUN, report)
    notes = {row.note for row in report.rows if row.what == 'all'}
    assert notes == {'MemoryError: too big'}
    assert report.rows[-1].section == 'Scan, forward+backward'


def test_files_are_there_after_every_row(report) -> None:
    report.add(Row('S', 'c', 'a', Timing(1.0, 0.9, 0.1, 3, 1.0, 1.2), 2.0))
    first = (report.folder / 'gpu.md').read_text()
    assert '| c | a | 1.000 | 0.900 | 1.200 | 2  | - | - |  |' in first
    assert '| driver | 1 |' in first
    report.add(Row('S', 'c', 'b', note='why'))
    rows = json.loads((report.folder / 'gpu.json').read_text())['rows']
    assert [row['what'] for row in rows] == ['a', 'b']


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_missing_gpu_is_said(tmp_path) -> None:
    with pytest.raises(SystemExit, match='torch finds none.*or --dry-run'):
        gpu.main(['--out', str(tmp_path)])


class ReferenceKernel:
    """In place of the compiled kernel, which needs a GPU."""

    apply = staticmethod(gpu_benches.reference_kernels().scan)


@pytest.mark.parametrize('passes', ['forward', 'forward+backward'])
def test_the_kernel_rows_compute_the_same(monkeypatch, passes) -> None:
    monkeypatch.setattr(scan_contenders, 'KernelScan', ReferenceKernel)
    case = ScanCase(batch=2, dim=6, length=5, state=3, passes=passes)
    prepared = {
        name: prepare(name, case)()
        for name in ('reference', 'vim', 'selective_scan_cuda')
    }
    if passes == 'forward':
        ahead, back = prepared['selective_scan_cuda']
        vim, expected = prepared['vim'], prepared['reference']
    else:
        ahead, back, *_ = prepared['selective_scan_cuda']
        vim, expected = prepared['vim'][0], prepared['reference'][0]
        # of u, ahead and turned round
        given = prepared['reference'][1]
        torch.testing.assert_close(prepared['vim'][1], given[0].mT)
    torch.testing.assert_close(vim, (ahead + back.flip(-1)) / 2)
    torch.testing.assert_close(vim.mT, expected, rtol=1e-4, atol=1e-5)


def test_inputs_are_drawn_where_they_are_scanned() -> None:
    inputs = make_inputs(ScanCase(batch=1, dim=4, length=3, state=2))
    assert {t.device.type for t in inputs.values()} == {'cpu'}
    again = make_inputs(ScanCase(batch=1, dim=4, length=3, state=2))
    torch.testing.assert_close(inputs, again)

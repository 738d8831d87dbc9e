"""The check before first use, with backends that lie, crash and raise."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import bad_backends
import pytest
import torch
from scan_cases import scan_inputs

from mmscope.ops import backends, bidirectional_scan, self_check
from mmscope.ops.self_check import cache, run
from mmscope.ops.self_check.run import Check, Verdict, examine, examine_apart

PRELUDE = 'import bad_backends; bad_backends.install(); '
POSIX = pytest.mark.skipif(os.name != 'posix', reason='signals are of Unix')


def check_of(backend: str) -> Check:
    return Check('scan', backend, 'float32', 'cpu')


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """CPU tensors need a check, nothing is known, nobody is asked for."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv('MMSCOPE_SCAN_BACKEND', raising=False)
    monkeypatch.delenv(self_check.ENV_SELF_CHECK, raising=False)
    monkeypatch.setattr(self_check, '_VERDICTS', {})
    monkeypatch.setattr(self_check, 'applies', lambda x: True)
    monkeypatch.setattr(run, 'PROGRAM', PRELUDE + run.PROGRAM)


@pytest.fixture
def table(monkeypatch):
    """Sets the table of backends; torch and reference come last."""

    def set_table(*cores):
        last = backends.BACKENDS[-2:]
        rows = bad_backends.rows(*cores)
        monkeypatch.setattr(backends, 'BACKENDS', (*rows, *last))

    return set_table


@pytest.fixture
def asked(monkeypatch):
    """Answers without a process; the checks that were asked for."""
    checks = []

    def answer(check):
        checks.append(check)
        return Verdict(answer.reason, final=answer.final)

    answer.reason, answer.final, answer.checks = None, True, checks
    monkeypatch.setattr(self_check, 'examine_once', answer)
    return answer


def examine_bad(monkeypatch, core) -> Verdict:
    monkeypatch.setattr(
        backends, 'BACKENDS', backends.BACKENDS + bad_backends.rows(core)
    )
    return examine(check_of(core.__name__))


@pytest.mark.parametrize(
    ('core', 'reason'),
    [
        (bad_backends.lies, 'in float32 at 1 tokens, .* is off by 0.'),
        (bad_backends.lies_in_importance, 'the importance is off by'),
        (bad_backends.lies_in_gradients, 'the gradient of C is off by 1 of'),
        (bad_backends.lies_past_a_chunk, 'at 67 tokens, .* is off by'),
        (bad_backends.lies_without_gradients, '1 tokens without gradients, '),
        (bad_backends.tells_nan, 'is off by nan of its size'),
        (bad_backends.raises, '^TritonError: PassManager::run failed$'),
    ],
)
def test_what_is_wrong_is_said(monkeypatch, core, reason):
    verdict = examine_bad(monkeypatch, core)
    assert verdict.final
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(verdict.reason)


@pytest.mark.parametrize('operator', ['scan', 'conv', 'norm'])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_what_is_right_passes(operator, dtype):
    for backend, reason in backends.scan_backends().items():
        if reason is None:
            verdict = examine(Check(operator, backend, dtype, 'cpu'))
            assert verdict.reason is None, verdict
            assert 0 <= verdict.error <= run.probes.TOLERANCE[torch.bfloat16]


def test_no_memory_is_no_verdict(monkeypatch):
    def full(inputs, options):
        raise torch.cuda.OutOfMemoryError('0 bytes free')

    verdict = examine_bad(monkeypatch, full)
    assert not verdict.final and '0 bytes free' in verdict.reason


@POSIX
@pytest.mark.slow
def test_a_crash_is_that_of_its_check_alone():
    names = ('crashes', 'honest', 'exits', 'lies', 'hangs')
    verdicts = examine_apart([check_of(name) for name in names], seconds=20)
    reasons = [verdict.reason for verdict in verdicts]
    assert reasons[0] == 'its check crashed with SIGSEGV'
    assert reasons[1] is None and verdicts[1].error < 1e-5
    assert reasons[2].startswith('its check ended with status 3')
    assert 'is off by' in reasons[3]
    assert reasons[4] == 'its check did not end within 40 s'
    assert [verdict.final for verdict in verdicts] == [True] * 4 + [False]


@POSIX
def test_auto_survives_a_backend_that_crashes(table, caplog):
    table(bad_backends.crashes)
    inputs = scan_inputs(dtype=torch.float32)
    with caplog.at_level(logging.WARNING, 'mmscope'):
        outs = [bidirectional_scan(**inputs) for _ in range(2)]
    expected = bidirectional_scan(**inputs, backend='torch')
    assert all(torch.equal(out, expected) for out in outs)
    (record,) = caplog.records
    assert 'the crashes scan in float32 is refused on cpu' in record.message
    assert 'crashed with SIGSEGV' in record.message
    assert 'MMSCOPE_SELF_CHECK=0' in record.message
    (kept,) = cache.cache_folder().glob('*.json')
    assert 'SIGSEGV' in json.loads(kept.read_text())['reason']


def test_checked_once_per_operator_dtype_and_device(table, asked):
    table(bad_backends.honest)
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        bidirectional_scan(**scan_inputs(dtype=dtype))
    assert asked.checks == [
        Check('scan', 'honest', dtype, 'cpu')
        for dtype in ('float32', 'bfloat16')
    ]


def test_the_next_backend_is_checked_in_turn(table, asked):
    table(bad_backends.raises, bad_backends.lies)
    asked.reason = 'no'
    out = bidirectional_scan(**scan_inputs())
    assert torch.equal(
        out, bidirectional_scan(**scan_inputs(), backend='torch')
    )
    assert [check.backend for check in asked.checks] == ['raises', 'lies']


def test_a_backend_asked_for_by_name_is_not_checked(table, asked):
    table(bad_backends.lies)
    asked.reason = 'no'
    wrong = bidirectional_scan(**scan_inputs(), backend='lies')
    right = bidirectional_scan(**scan_inputs(), backend='reference')
    torch.testing.assert_close(wrong, 1.5 * right)
    assert not asked.checks


def test_it_can_be_switched_off(table, asked, monkeypatch):
    table(bad_backends.honest)
    monkeypatch.setenv(self_check.ENV_SELF_CHECK, '0')
    bidirectional_scan(**scan_inputs())
    assert not asked.checks


def test_cpu_tensors_need_no_check(monkeypatch, asked):
    monkeypatch.undo()
    monkeypatch.setattr(self_check, 'examine_once', asked)
    bidirectional_scan(**scan_inputs())
    assert not asked.checks


def test_verdicts_outlive_the_process(table, asked, monkeypatch):
    table(bad_backends.lies)
    asked.reason = 'is off by 1'
    for _ in range(2):
        bidirectional_scan(**scan_inputs())
        monkeypatch.setattr(self_check, '_VERDICTS', {})
    assert len(asked.checks) == 1


def test_what_is_not_final_is_refused_and_forgotten(table, asked, caplog):
    table(bad_backends.lies)
    asked.reason, asked.final = 'no memory', False
    inputs = scan_inputs()
    right = bidirectional_scan(**inputs, backend='torch')
    assert torch.equal(bidirectional_scan(**inputs), right)
    assert 'is refused on cpu: no memory' in caplog.text
    assert not list(cache.cache_folder().glob('*.json'))


@pytest.mark.parametrize(
    'change',
    [
        {'torch': '9'},
        {'triton': '9'},
        {'sources': ''},
        {'device': 'other'},
        {'driver': 'other'},
    ],
)
def test_another_machine_or_version_is_checked_again(
    table, asked, monkeypatch, change
):
    table(bad_backends.honest)
    bidirectional_scan(**scan_inputs())
    monkeypatch.setattr(self_check, '_VERDICTS', {})
    known = cache.identity(asked.checks[0])
    monkeypatch.setattr(cache, 'identity', lambda check: {**known, **change})
    bidirectional_scan(**scan_inputs())
    assert len(asked.checks) == 2


def test_a_gpus_verdict_is_of_its_kind_and_driver(monkeypatch, tmp_path):
    """Two GPUs of one kind share a verdict; another driver does not."""
    (tmp_path / 'version').write_text('NVRM version: 580.65\nGCC 12')
    monkeypatch.setattr(cache, 'DRIVER', tmp_path / 'version')
    monkeypatch.setattr(cache, '_driver', cache._driver.__wrapped__)
    seen = []

    def properties(device):
        seen.append(device)
        return SimpleNamespace(name='H100', major=9, minor=0)

    monkeypatch.setattr(torch.cuda, 'get_device_properties', properties)
    first, second = (
        Check('scan', 'triton', 'bfloat16', f'cuda:{i}') for i in range(2)
    )
    found = cache.identity(first)
    assert found == cache.identity(second) and seen == ['cuda:0', 'cuda:1']
    assert found['device'] == 'H100' and found['capability'] == '9.0'
    assert found['driver'] == 'NVRM version: 580.65'
    cache.remember(first, Verdict('is off by 1'))
    assert cache.remembered(second) == Verdict('is off by 1')
    assert cache.remembered(second._replace(dtype='float32')) is None
    monkeypatch.setattr(cache, '_driver', lambda: 'NVRM version: 590.1')
    assert cache.remembered(second) is None


@pytest.mark.parametrize(
    'text',
    [
        '',
        'null',
        '[]',
        '{"identity": 3}',
        '{"identity": {}, "reason": null}',
        '\x00\xff',
        '{"identity": IDENTITY, "reason": 7}',
    ],
)
def test_a_corrupt_file_is_checked_again(table, asked, text):
    check = Check('scan', 'honest', 'float64', 'cpu')
    path = cache._file(check)
    path.parent.mkdir(parents=True)
    text = text.replace('IDENTITY', json.dumps(cache.identity(check)))
    path.write_bytes(text.encode('latin-1'))
    table(bad_backends.honest)
    bidirectional_scan(**scan_inputs())
    assert len(asked.checks) == 1
    assert cache.remembered(check) == Verdict(None)


def test_no_folder_is_no_cache(table, asked, monkeypatch, tmp_path):
    table(bad_backends.honest)
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    bidirectional_scan(**scan_inputs())
    monkeypatch.setattr(self_check, '_VERDICTS', {})
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setattr(Path, 'home', _no_home)
    assert cache.cache_folder() is None
    bidirectional_scan(**scan_inputs())
    assert len(asked.checks) == 2


def _no_home():
    raise RuntimeError('no home')


@pytest.mark.parametrize(
    ('platform', 'variables', 'folder'),
    [
        ('linux', {}, '/home/me/.cache'),
        ('linux', {'XDG_CACHE_HOME': '/scratch'}, '/scratch'),
        ('darwin', {}, '/home/me/Library/Caches'),
        ('win32', {'LOCALAPPDATA': '/local'}, '/local'),
    ],
)
def test_the_platforms_folder(monkeypatch, platform, variables, folder):
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setattr(Path, 'home', lambda: Path('/home/me'))
    monkeypatch.setattr(sys, 'platform', platform)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    expected = Path(folder) / 'mmscope' / 'self_check'
    assert cache.cache_folder() == expected


def test_processes_may_write_at_once():
    check = check_of('honest')
    stop = threading.Event()
    seen = []

    def read():
        while not stop.is_set():
            seen.append(cache.remembered(check))

    with ThreadPoolExecutor(3) as pool:
        pool.submit(read)
        writers = [
            pool.submit(cache.remember, check, Verdict(None))
            for _ in range(200)
        ]
        for writer in writers:
            writer.result()
        stop.set()
    assert set(seen) <= {None, Verdict(None)}
    assert cache.remembered(check) == Verdict(None)
    assert len(list(cache.cache_folder().iterdir())) == 1  # nothing torn


def test_threads_check_once(table, asked, monkeypatch):
    table(bad_backends.honest)
    with ThreadPoolExecutor(4) as pool:
        for done in [
            pool.submit(bidirectional_scan, **scan_inputs()) for _ in range(8)
        ]:
            done.result()
    assert len(asked.checks) == 1


@POSIX
def test_processes_check_once(monkeypatch, asked):
    """Nothing but the folder is shared, as by the ranks of a training."""

    def slow(check):
        time.sleep(0.2)
        return asked(check)

    monkeypatch.setattr(self_check, 'examine_once', slow)
    asked.reason = 'is off by 1'
    check = check_of('lies')
    with ThreadPoolExecutor(4) as pool:
        reasons = list(pool.map(self_check._decide, [check] * 4))
    assert reasons == ['is off by 1'] * 4
    assert len(asked.checks) == 1


@pytest.mark.parametrize('reason', [None, 'is off by 1'])
def test_nothing_is_checked_while_torch_compiles(table, asked, reason):
    table(bad_backends.lies)
    asked.reason = reason
    inputs = scan_inputs()

    def scan(**inputs):
        return bidirectional_scan(**inputs)

    torch.compiler.reset()
    compiled = torch.compile(scan, fullgraph=True, backend='eager')
    right = bidirectional_scan(**inputs, backend='reference')
    torch.testing.assert_close(compiled(**inputs), 1.5 * right)
    assert not asked.checks
    bidirectional_scan(**inputs)  # now it is known
    scale = 1 if reason else 1.5
    torch.testing.assert_close(compiled(**inputs), scale * right)
    assert len(asked.checks) == 1


@pytest.mark.parametrize('known', [None, 'is off by 1'])
def test_nothing_is_checked_while_a_graph_is_captured(
    table, asked, monkeypatch, known
):
    table(bad_backends.lies)
    monkeypatch.setattr(self_check, '_capturing', lambda x: True)
    inputs = scan_inputs()
    if known:
        check = Check('scan', 'lies', 'float64', 'cpu')
        cache.remember(check, Verdict(known))
    right = bidirectional_scan(**inputs, backend='reference')
    scale = 1 if known else 1.5
    torch.testing.assert_close(bidirectional_scan(**inputs), scale * right)
    assert not asked.checks and not self_check._VERDICTS


def test_a_check_does_not_tune(monkeypatch):
    monkeypatch.setenv('MMSCOPE_TRITON_AUTOTUNE', '1')
    assert run._environment()['MMSCOPE_TRITON_AUTOTUNE'] == '0'


def test_fake_tensors_are_not_checked(asked):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.empty(1, device='cuda')
        assert self_check.refusal('scan', 'triton', fake) is None
    assert not asked.checks


def test_where_no_process_can_be_started(table, monkeypatch, caplog):
    table(bad_backends.raises)
    monkeypatch.setattr(sys, 'executable', '')
    bidirectional_scan(**scan_inputs())
    assert 'TritonError: PassManager::run failed;' in caplog.text


def test_where_the_process_does_not_see_the_device(table, monkeypatch, caplog):
    table(bad_backends.raises)
    monkeypatch.setattr(run, 'PROGRAM', 'raise SystemExit(1)')
    with torch.inference_mode():
        bidirectional_scan(**scan_inputs())
    assert 'TritonError: PassManager::run failed;' in caplog.text


def test_a_check_leaves_the_callers_state_alone(table, monkeypatch):
    table(bad_backends.honest)
    monkeypatch.setattr(sys, 'executable', '')
    before = torch.get_rng_state()
    with torch.no_grad():
        bidirectional_scan(**scan_inputs())
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_command_checks_everything():
    """With torch alone: nothing of OpenMMLab may be asked for."""
    program = """
import runpy, sys
for name in ('mmengine', 'mmcv', 'mmseg', 'mmdet'):
    sys.modules[name] = None
from mmscope.ops.self_check import probes
probes.SIZES['cpu'] = (1, 9, 8)
sys.argv = ['mmscope.ops', '--devices', 'cpu']
runpy.run_module('mmscope.ops', run_name='__main__')
"""
    done = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    right = [line[:3] for line in lines if line[-1:] == ['right']]
    dtypes = ('float32', 'bfloat16', 'float16')
    for backend, reason in backends.scan_backends().items():
        ran = [dtype for op, name, dtype in right if name == backend]
        operators = 1 if backend in ('reference', 'mamba_ssm') else 3
        expected = [] if reason else [*dtypes] * operators
        assert ran == expected, backend
        assert reason is None or f'not here: {reason}' in done.stdout


def test_kernels_compile_in_processes_of_their_own(monkeypatch):
    from mmscope.ops.self_check import report

    monkeypatch.setattr(report, '_why_not', lambda backend, device: None)
    jobs = report.jobs_of(report.checks_of('cuda:0'))
    sizes = {}
    for job in jobs:
        assert len({check.backend for check in job}) == 1
        sizes.setdefault(job[0].backend, []).append(len(job))
    # three dtypes; scan alone, or convolution and norm as well
    assert sizes['triton'] == [1] * 9 and sizes['mamba_ssm'] == [1] * 3
    assert sizes['torch'] == [9] and sizes['reference'] == [3]
    assert len(report.jobs_of(report.checks_of('cpu'))) == 5


def test_the_command_fails_where_a_backend_is_wrong(monkeypatch, capsys):
    from mmscope.ops.self_check import report

    verdicts = {
        Check('scan', 'torch', 'float32', 'cpu'): Verdict('is off by 1'),
        Check('scan', 'torch', 'bfloat16', 'cpu'): Verdict(None, 0.1, (1, 2)),
    }
    monkeypatch.setattr(
        report, 'run', lambda checks, seconds: verdicts.items()
    )
    assert report.main(['--devices', 'cpu']) == 1
    printed = capsys.readouterr().out
    assert 'REFUSED: is off by 1' in printed
    assert '2 ms       right' in printed

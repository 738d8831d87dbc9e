"""Turns, warm-up, errors, and which device the clock looks at."""

import time
from contextlib import contextmanager
from dataclasses import asdict

import pytest
import torch

from mmscope.benchmark import memory, timing
from mmscope.benchmark.timing import Timing, stopwatch, time_in_turns


def test_timing_sums_up_single_calls() -> None:
    timing_of = Timing.of([0.004, 0.001, 0.002, 0.003, 0.005])
    assert asdict(timing_of) == pytest.approx(
        dict(median=3, minimum=1, spread=2, calls=5, p50=3, p99=4.96)
    )
    assert Timing.of([0.5]) == Timing(500, 500, 0, 1, 500, 500)


def test_parts_have_percentiles_of_their_own() -> None:
    """Exits make the latency of single images bimodal."""
    timing_of = Timing.of([0.11, 0.11], [0.01, 0.1, 0.01, 0.1])
    assert timing_of.median == pytest.approx(110)
    assert timing_of.p50 == pytest.approx(55)
    assert timing_of.p99 == pytest.approx(100)


def test_jobs_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, '_warm_up', lambda *_: 2)
    order = []
    jobs = {name: lambda name=name: order.append(name) for name in 'ab'}
    timings = time_in_turns(jobs, 2, step=lambda: order.append('|'))
    assert ''.join(order) == 'aa|bb|aa|bb|'
    # the first call of a turn is not counted
    assert timings['a'].calls == 2


def test_every_part_of_a_job_is_timed(monkeypatch) -> None:
    clock = iter(range(1, 100))

    def seconds(part) -> float:
        part()
        return float(next(clock))

    called = []
    parts = [lambda: called.append('a'), lambda: called.append('b')]
    monkeypatch.setattr(timing, 'wall_seconds', seconds)
    result = time_in_turns(dict(one=parts), 1)['one']
    # untimed, the warm-up (1 and 2 seconds), and one turn of 3 and 4
    assert ''.join(called) == 'ababab'
    assert result.median == 7000
    assert result.p50 == 3500


def test_a_first_call_that_compiles_is_no_slow_job(monkeypatch) -> None:
    calls = []

    def compiles_first() -> None:
        calls.append(1)

    def seconds(job) -> float:
        job()
        return 0.2 if len(calls) == 1 else 0.001

    monkeypatch.setattr(timing, 'wall_seconds', seconds)
    result = time_in_turns(dict(job=compiles_first), 1)['job']
    assert result.calls == timing.MAX_CALLS


def test_time_of_the_cpu_leaves_out_waiting() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = stopwatch('cpu', cpu_time=True)
        assert seconds(lambda: time.sleep(0.05)) < 0.04
        with pytest.raises(ValueError, match=r"1 threads on 'cuda'"):
            stopwatch('cuda', cpu_time=True)
        torch.set_num_threads(2)
        with pytest.raises(ValueError, match='2 threads.*--threads 1'):
            stopwatch('cpu', cpu_time=True)
    finally:
        torch.set_num_threads(threads)


class CompilationError(Exception):
    """As Triton's, which is no RuntimeError."""


def test_a_job_that_fails_says_why() -> None:
    def fail() -> None:
        raise CompilationError('no registers\nat all')

    jobs = dict(bad=fail, good=lambda: None)
    timings = time_in_turns(jobs, 1)
    assert timings['bad'] == 'CompilationError: no registers'
    assert isinstance(timings['good'], Timing)
    with pytest.raises(CompilationError, match='no registers'):
        time_in_turns(jobs, 1, fatal=(CompilationError,))
    with pytest.raises(ValueError, match='at least 1, got 0'):
        time_in_turns(jobs, 0)


@pytest.mark.skipif(not memory.ON_LINUX, reason='Linux only')
def test_memory_is_what_a_call_adds() -> None:
    grown = memory.peak_growth(allocate, 64)
    assert grown == pytest.approx(64, abs=6)


def allocate(mebibytes: int):
    return lambda: torch.ones(mebibytes, 2**18)


class FakeGpu:
    """Records on which device everything happens; there is no GPU here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current, self.seen = 'cuda:0', []
        for name in (
            *('synchronize', 'reset_peak_memory_stats'),
            *('memory_allocated', 'max_memory_allocated'),
        ):
            monkeypatch.setattr(torch.cuda, name, self._recorder(name))
        monkeypatch.setattr(torch.cuda, 'device', self._device)
        gpu = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                gpu.seen.append(('record', gpu.current))

            def synchronize(self) -> None:
                gpu.seen.append(('synchronize event', gpu.current))

            def elapsed_time(self, end: 'Event') -> float:
                return 4.0

        monkeypatch.setattr(torch.cuda, 'Event', Event)

    def _recorder(self, name: str):
        def record(device: str | None = None) -> int:
            self.seen.append((name, device or self.current))
            return 2**20 * (name == 'max_memory_allocated')

        return record

    @contextmanager
    def _device(self, device: str):
        before, self.current = self.current, device
        yield
        self.current = before

    def job(self) -> None:
        self.seen.append(('job', self.current))


def test_the_clock_is_that_of_the_tensors_gpu(monkeypatch) -> None:
    gpu = FakeGpu(monkeypatch)
    assert stopwatch('cuda:1')(gpu.job) == pytest.approx(4e-3)
    names = [name for name, _ in gpu.seen]
    assert names.count('record') == 2
    assert names.index('synchronize') < names.index('job')
    assert {device for _, device in gpu.seen} == {'cuda:1'}
    assert gpu.current == 'cuda:0'


def test_memory_is_that_of_the_tensors_gpu(monkeypatch) -> None:
    gpu = FakeGpu(monkeypatch)
    assert memory.peak_memory(gpu.job, 'cuda:1') == 1
    assert {device for _, device in gpu.seen} == {'cuda:1'}

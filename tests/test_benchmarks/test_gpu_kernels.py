"""benchmarks.gpu_kernels without a GPU: what it would measure, and say."""

from dataclasses import asdict

import pytest
import torch
from rich.console import Console

pytest.importorskip('triton')

from benchmarks import gpu_kernels  # noqa: E402
from mmscope.ops.conv.triton import static_span  # noqa: E402
from mmscope.ops.scan.triton.config import EVERY, static_config  # noqa: E402


def test_what_is_chosen_without_tuning_is_measured():
    jobs = list(gpu_kernels.jobs())
    assert len(set(jobs)) == len(jobs)
    cuts = [j.config for j in jobs if j.name.startswith('scan')]
    assert all(EVERY % config.unroll == 0 for config in cuts)
    u = torch.empty(2, 64, 1025, 384, device='meta')
    for name, backward, save in (
        ('scan', False, False),
        ('scan and states', False, True),
        ('scan backward', True, True),
    ):
        config = static_config(u, 16, backward, save)
        assert gpu_kernels.Job(name, 64, 1025, config) in jobs
    assert gpu_kernels.Job('conv', 64, 1025, static_span(384)) in jobs


def test_the_table_shows_times_and_errors():
    jobs = list(gpu_kernels.jobs())[:2]
    records = [
        dict(**asdict(jobs[0]), milliseconds=0.25, error=None),
        dict(**asdict(jobs[1]), milliseconds=None, error='PTXASError: no'),
    ]
    console = Console(width=110, record=True)
    console.print(gpu_kernels.table(records))
    text = console.export_text()
    assert '0.2500' in text and 'PTXASError: no' in text


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs no GPU')
def test_it_says_that_it_needs_a_gpu(monkeypatch):
    monkeypatch.setattr('sys.argv', ['gpu_kernels'])
    with pytest.raises(SystemExit, match='no GPU is visible'):
        gpu_kernels.main()

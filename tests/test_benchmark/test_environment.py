"""What a report says about where it was measured."""

import subprocess
from types import SimpleNamespace

import pytest
import torch

from mmscope.benchmark import environment as module
from mmscope.benchmark.environment import check_device, environment, gpu_facts


def test_the_cpu_is_described() -> None:
    facts = environment('cpu', ('torch', 'no-such-package'))
    assert facts['torch'] == torch.__version__
    assert 'cores' in facts['device']
    assert facts['packages']['no-such-package'] is None
    assert 'gpu' not in facts


def ask(monkeypatch: pytest.MonkeyPatch, run) -> dict:
    properties = SimpleNamespace(uuid='1234')
    monkeypatch.setattr(
        torch.cuda, 'get_device_properties', lambda device: properties
    )
    monkeypatch.setattr(module.subprocess, 'run', run)
    return gpu_facts('cuda:1')


def test_a_gpu_is_described_with_driver_and_clocks(monkeypatch) -> None:
    asked = []

    def nvidia_smi(command: list[str], **_: object) -> SimpleNamespace:
        asked.extend(command)
        line = '580.1, 700.00 W, 1755 MHz, 1980 MHz, 2619 MHz\n'
        return SimpleNamespace(stdout=line)

    facts = ask(monkeypatch, nvidia_smi)
    assert '--id=GPU-1234' in asked
    assert facts['driver'] == '580.1'
    assert facts['power_limit'] == '700.00 W'
    assert facts['max_sm_clock'] == '1980 MHz'
    assert facts['tf32_matmul'] is torch.backends.cuda.matmul.allow_tf32
    assert {'cuda', 'cudnn', 'cudnn_benchmark', 'tf32_cudnn'} < set(facts)


def test_without_nvidia_smi_the_rest_is_said(monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired('nvidia-smi', 10)

    facts = ask(monkeypatch, fail)
    assert facts['driver'] is None
    assert facts['tf32_matmul'] is not None


@pytest.mark.parametrize('device', ['tpu', 'cuda:x', 'cpu0'])
def test_a_device_that_is_none_is_named(device) -> None:
    with pytest.raises(ValueError, match=f"'cuda:N', got '{device}'"):
        check_device(device)


def test_a_gpu_that_is_not_there_is_named(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    check_device('cuda:0')
    with pytest.raises(ValueError, match="there are 1 GPUs.* got .*'cuda:1'"):
        check_device('cuda:1')

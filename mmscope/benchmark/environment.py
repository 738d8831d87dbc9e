"""Where something was measured, as far as it explains the numbers."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import date
from importlib import metadata
from pathlib import Path

import torch


def check_device(device: str) -> None:
    """Raise ValueError unless it is the CPU, or a GPU that torch finds."""
    kind, _, index = device.partition(':')
    if kind not in ('cpu', 'cuda') or not (index or '0').isdecimal():
        raise ValueError(
            f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}"
        )
    if kind == 'cuda' and not torch.cuda.is_available():
        raise ValueError(
            f'device {device!r} needs a GPU, and torch finds none; '
            "choose device 'cpu'"
        )
    if kind == 'cuda' and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f'there are {torch.cuda.device_count()} GPUs, counted from 0, '
            f'got device {device!r}'
        )


def device_name(device: str) -> str:
    """Name of the processor or GPU, without that of the machine."""
    if torch.device(device).type == 'cuda':
        return torch.cuda.get_device_name(device)
    facts = {}
    if Path('/proc/cpuinfo').exists():
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            key, _, value = line.partition(':')
            facts.setdefault(key.strip(), value.strip())
    name = facts.get('model name', platform.processor() or 'CPU')
    if 'cpu family' in facts:
        name += f' (family {facts["cpu family"]}, model {facts["model"]})'
    return f'{name}, {os.cpu_count()} cores'


def git_revision() -> str | None:
    """Commit of this checkout, '-dirty' where files differ from it."""
    try:
        return subprocess.run(
            ['git', 'describe', '--always', '--dirty', '--exclude=*'],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


# of nvidia-smi, by the name that the report gives them
GPU_FACTS = dict(
    driver='driver_version',
    power_limit='power.limit',
    sm_clock='clocks.sm',
    max_sm_clock='clocks.max.sm',
    memory_clock='clocks.mem',
)


def gpu_facts(device: str) -> dict[str, str | bool | None]:
    """Driver, libraries, clocks and settings that a GPU's speed hangs on.

    What nvidia-smi knows is None where it cannot be asked.

    Args:
        device: 'cuda' or 'cuda:N'.
    """
    uuid = torch.cuda.get_device_properties(device).uuid
    values = _ask_nvidia_smi(f'GPU-{uuid}')
    return dict(
        zip(GPU_FACTS, values, strict=True),
        cuda=torch.version.cuda,
        cudnn=str(torch.backends.cudnn.version()),
        cudnn_benchmark=torch.backends.cudnn.benchmark,
        tf32_matmul=torch.backends.cuda.matmul.allow_tf32,
        tf32_cudnn=torch.backends.cudnn.allow_tf32,
    )


def _ask_nvidia_smi(gpu: str) -> list[str | None]:
    query = f'--query-gpu={",".join(GPU_FACTS.values())}'
    command = ['nvidia-smi', f'--id={gpu}', query, '--format=csv,noheader']
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return [None] * len(GPU_FACTS)
    return [value.strip() for value in answer.split(',')]


def environment(device: str, packages: tuple[str, ...] = ()) -> dict:
    """What a reader must know to judge the numbers.

    Args:
        device: Device that was measured.
        packages: Distributions whose versions matter, besides torch.
    """
    check_device(device)
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    facts = dict(
        device=device_name(device),
        torch=torch.__version__,
        python=platform.python_version(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        git_revision=git_revision(),
        load_average=list(os.getloadavg()),
        date=date.today().isoformat(),
        glibc_tunables=os.environ.get('GLIBC_TUNABLES'),
        packages=versions,
    )
    if torch.device(device).type == 'cuda':
        facts['gpu'] = gpu_facts(device)
    return facts

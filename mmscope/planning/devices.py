"""Devices that a training may run on.

Memory, throughput and bandwidth are of NVIDIA's datasheets, none of them was
measured here: V100 (SXM2), T4, A10, A100 (SXM4), L40S, RTX A6000, H100
(SXM5), H200 (SXM), and the whitepapers of the Ampere and Ada GeForce cards.
Throughput is that of dense products in bfloat16 that are added up in
float32; V100 and T4 have float16 alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

GB = 10**9
HERE = 'here'


@dataclass(frozen=True)
class Device:
    """A GPU, or the machine that this runs on.

    Attributes:
        name: What it is chosen by.
        memory: Bytes. A datasheet's GB count 1e9 bytes: cards show up to 7 %
            more.
        tflops: Dense products in bfloat16, TFLOP/s; 0 where not known.
        bandwidth: Of memory, GB/s; 0 where not known.
    """

    name: str
    memory: int
    tflops: float = 0.0
    bandwidth: float = 0.0


DEVICES: dict[str, Device] = {
    name: Device(name, gigabytes * GB, tflops, bandwidth)
    for name, gigabytes, tflops, bandwidth in (
        ('t4', 16, 65, 320),
        ('v100-16g', 16, 125, 900),
        ('v100-32g', 32, 125, 900),
        ('a10', 24, 125, 600),
        ('rtx3090', 24, 71, 936),
        ('rtx4090', 24, 165, 1008),
        ('a6000', 48, 155, 768),
        ('l40s', 48, 362, 864),
        ('a100-40g', 40, 312, 1555),
        ('a100-80g', 80, 312, 2039),
        ('h100-80g', 80, 989, 3350),
        ('h200-141g', 141, 989, 4800),
    )
}
# where the time of a G was measured
MEASURED = DEVICES['h100-80g']


def find_device(name: str) -> Device:
    """Look up a device; 'here' is the first GPU, or else the CPU.

    Raises:
        ValueError: there is none of this name.
    """
    if name == HERE:
        return this_device()
    if name not in DEVICES:
        raise ValueError(
            f'device must be {HERE!r} or one of {list(DEVICES)}, got {name!r}'
        )
    return DEVICES[name]


def this_device() -> Device:
    """The first GPU that torch sees, or the memory that is free here."""
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        return Device(HERE, found.total_memory)
    return Device(HERE, free_memory())


def free_memory() -> int:
    """Bytes that a new process can have on this machine."""
    path = Path('/proc/meminfo')
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith('MemAvailable:'):
                return 1024 * int(line.split()[1])
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')

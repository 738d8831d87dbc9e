"""Measure the Vision Mamba backbone, and the share of the scan in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor
from torch.autograd.profiler import profile, record_function

from mmscope.benchmark.memory import peak_growth
from mmscope.benchmark.timing import Timing, time_in_turns, torch_threads
from mmscope.models import VisionMambaBackbone
from mmscope.models.arch import resolve_arch

PRECISIONS = ('float32', 'bfloat16')
SCAN_OPERATORS = ('mmscope::scan_forward', 'mmscope::torch_scan_forward')


@dataclass(frozen=True)
class BackboneRecord:
    """What the backbone took; None where not measured.

    Attributes:
        arch: Architecture.
        size: Side of the image.
        backend: Scan backend.
        precision: 'float32', or 'bfloat16' for autocast.
        threads: Threads of torch.
        time: Milliseconds of one forward pass without gradients, one image.
        scan_share: Share of the scan operator in profiled forward passes;
            only an operator that is registered with torch is told apart.
        memory: Peak resident memory of a forward and backward pass, above
            weights and image, MiB.
        reason: Why it could not run.
    """

    arch: str
    size: int
    backend: str
    precision: str
    threads: int
    time: Timing | None = None
    scan_share: float | None = None
    memory: float | None = None
    reason: str | None = None


def autocast(precision: str) -> AbstractContextManager:
    """Autocast of the CPU; nothing for float32."""
    if precision not in PRECISIONS:
        raise ValueError(
            f'precision must be one of {list(PRECISIONS)}, got {precision!r}'
        )
    if precision == 'float32':
        return nullcontext()
    return torch.autocast('cpu', torch.bfloat16)


def build(arch: str | dict, size: int, backend: str) -> VisionMambaBackbone:
    """Build a backbone that returns a map after each quarter of it."""
    layers = resolve_arch(arch)['num_layers']
    quarters = range(layers)[:: -max(layers // 4, 1)]
    return VisionMambaBackbone(
        arch,
        img_size=size,
        out_indices=sorted(quarters),
        scan_backend=backend,
    )


def prepare_forward(
    arch: str | dict, size: int, backend: str, precision: str
) -> Callable[[], tuple[Tensor, ...]]:
    """Return one forward pass, in evaluation mode and without gradients."""
    net = build(arch, size, backend).eval()
    image = torch.rand(1, 3, size, size)
    net.check_images(image)

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad(), autocast(precision):
            return net(image)

    return forward


def prepare_training(
    arch: str | dict, size: int, backend: str, precision: str, threads: int
) -> Callable[[], tuple[Tensor, ...]]:
    """Return a forward and backward pass, run once on a small image."""
    torch.set_num_threads(threads)
    net = build(arch, size, backend)

    def both_passes(image: Tensor) -> tuple[Tensor, ...]:
        with autocast(precision):
            loss = sum(level.float().mean() for level in net(image))
        return torch.autograd.grad(loss, list(net.parameters()))

    both_passes(torch.rand(1, 3, 32, 32))
    image = torch.rand(1, 3, size, size)
    return lambda: both_passes(image)


def scan_share(forward: Callable[[], object], repeats: int) -> float | None:
    """Share of the scan operator in the time of ``forward``."""
    with profile() as profiler:
        for _ in range(repeats):
            with record_function('everything'):
                forward()
    totals = {
        event.key: event.cpu_time_total for event in profiler.key_averages()
    }
    for scan in SCAN_OPERATORS:
        if scan in totals:
            return totals[scan] / totals['everything']
    return None


def bench_backbone(
    sizes: Sequence[int] = (224, 512),
    backends: Sequence[str] = ('auto',),
    precisions: Sequence[str] = PRECISIONS,
    arch: str | dict = 'tiny',
    threads: int = 2,
    repeats: int = 10,
    memory: bool = True,
    step: Callable[[], None] = lambda: None,
) -> list[BackboneRecord]:
    """Time the backbone on CPU, one image, all settings of a size in turns.

    Args:
        sizes: Sides of the image.
        backends: Scan backends, or 'auto'.
        precisions: Some of ``PRECISIONS``.
        arch: Architecture.
        threads: Threads of torch.
        repeats: Turns of each; a turn of a fast one is several calls.
        memory: Whether to measure memory too, in processes of their own.
        step: Called after each turn and each measurement of memory.
    """
    settings = list(product(backends, precisions))
    records = []
    with torch_threads(threads):
        for size in sizes:
            jobs = {one: prepare_forward(arch, size, *one) for one in settings}
            timings = time_in_turns(jobs, repeats, step=step)
            for one, timing in timings.items():
                record = BackboneRecord(str(arch), size, *one, threads)
                if isinstance(timing, str):
                    records.append(replace(record, reason=timing))
                    continue
                share = scan_share(jobs[one], min(repeats, 5))
                peak = None
                if memory:
                    training = (arch, size, *one, threads)
                    peak = peak_growth(prepare_training, *training)
                    step()
                records.append(
                    replace(record, time=timing, scan_share=share, memory=peak)
                )
    return records

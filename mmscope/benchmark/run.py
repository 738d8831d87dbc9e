"""Images a second: backbone, with FPN, with head, by exits and resolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import product

import numpy as np
import torch

from mmscope.models import ForcedExit, exit_settings
from mmscope.ops import use_backend
from mmscope.utils.flops import Size, model_flops

from .bound import compare
from .cases import DTYPES, FpsCase, FpsPlan, FpsRecord
from .inputs import make_batches
from .memory import peak_memory
from .models import (
    SCOPES,
    BenchModel,
    deciding,
    run_batch,
)
from .timing import Timing, stopwatch, time_in_turns

FORCED_ETA = 0.5  # any threshold between the forced confidences 0 and 1


@contextmanager
def settings_of(case: FpsCase, bench: BenchModel) -> Iterator[None]:
    """Set precision, scan backend and exits inside the block."""
    with (
        torch.no_grad(),
        use_backend(case.backend),
        _autocast(case),
        _exits(case, bench),
    ):
        yield


@contextmanager
def _exits(case: FpsCase, bench: BenchModel) -> Iterator[None]:
    """Set what a case says of exits inside the block."""
    if not bench.early_exit:
        yield
        return
    policy = None
    if case.forced is not None:
        # the model's own policy is asked, and then overruled
        policy = ForcedExit(case.forced, bench.net.exit_policy)
    with exit_settings(bench.net, eta_of(case), policy, case.exit_resolution):
        yield


def _autocast(case: FpsCase) -> AbstractContextManager:
    dtype = DTYPES[case.dtype]
    kind = torch.device(case.device).type
    return nullcontext() if dtype is None else torch.autocast(kind, dtype)


def eta_of(case: FpsCase) -> float | None:
    """The threshold that the backbone gets."""
    return case.eta if case.forced is None else FORCED_ETA


def make_job(
    case: FpsCase, bench: BenchModel, batches: list
) -> Callable[[], None]:
    """Return a call that runs all batches once."""

    def job() -> None:
        with settings_of(case, bench):
            for images, valid in batches:
                run_batch(bench, case.scope, images, valid)

    return job


def count_exits(
    case: FpsCase, bench: BenchModel, batches: list
) -> float | None:
    """Share of the images that exit, None for a model without exits."""
    if not bench.early_exit:
        return None
    exited = []
    for images, valid in batches:
        with settings_of(case, bench), deciding(bench.model, images):
            exited.append(bench.net.coarse(images, valid).exited)
    return torch.cat(exited).float().mean().item()


def bench_fps(
    models: Sequence[BenchModel],
    images: Sequence[np.ndarray],
    plan: FpsPlan,
    memory: bool = True,
    step: Callable[[], None] = lambda: None,
) -> list[FpsRecord]:
    """Time all models, those of one size and batch size in turns.

    Args:
        models: What to measure.
        images: RGB images (H, W, 3).
        plan: How.
        memory: Whether to measure memory, with one more call of each.
        step: Called after each turn, and after each measurement of memory.

    Raises:
        ValueError: the plan cannot be measured.
    """
    plan.check()
    records = []
    for size, batch in product(plan.sizes, plan.batch_sizes):
        group = _bench_group(models, images, plan, size, batch, memory, step)
        records += compare(group, {bench.name: bench for bench in models})
    return records


def count_steps(
    models: Sequence[BenchModel], plan: FpsPlan, memory: bool = True
) -> int:
    """How often :func:`bench_fps` calls ``step``, if all can run."""
    each = plan.repeats + memory
    return each * sum(
        len(plan.cases(bench, size, batch))
        for size, batch in product(plan.sizes, plan.batch_sizes)
        for bench in models
    )


def _bench_group(
    models: Sequence[BenchModel],
    images: Sequence[np.ndarray],
    plan: FpsPlan,
    size: Size,
    batch: int,
    memory: bool,
    step: Callable[[], None],
) -> list[FpsRecord]:
    jobs, records = {}, {}
    only = plan.exit_resolutions[0] if len(plan.exit_resolutions) < 2 else None
    for bench in models:
        batches = make_batches(
            images, bench, size, batch, plan.batches, plan.device
        )
        for case in plan.cases(bench, size, batch):
            record = FpsRecord(case, bench.parameters(case.scope))
            if case.scope == 'head' and bench.head is None:
                reason = f'{bench.name} has no decode_head'
                records[case] = replace(record, reason=reason)
                continue
            rate = count_exits(case, bench, batches)
            if not rate and case.exit_resolution == 'coarse' != only:
                for _ in range(plan.repeats + memory):
                    step()  # nothing exits: the same work as at 'fine'
                continue
            jobs[case] = make_job(case, bench, batches)
            gflops = count_gflops(case, bench, rate)
            records[case] = replace(record, exit_rate=rate, gflops=gflops)
    timings = time_in_turns(jobs, plan.repeats, stopwatch(plan.device), step)
    for case, timing in timings.items():
        if isinstance(timing, str):
            records[case] = replace(records[case], reason=timing)
            continue
        peak = None
        if memory:
            peak = peak_memory(jobs[case], plan.device)
            step()
        time = per_image(timing, batch * plan.batches)
        fps = 1e3 / time.median
        records[case] = replace(
            records[case],
            time=time,
            fps=fps,
            log10_fps=math.log10(fps),
            memory=peak,
        )
    return sorted(records.values(), key=lambda r: SCOPES.index(r.case.scope))


def per_image(timing: Timing, images: int) -> Timing:
    """The same measurement, of one image; parts of a call stay as they are."""
    return replace(
        timing,
        median=timing.median / images,
        minimum=timing.minimum / images,
        spread=timing.spread / images,
    )


def count_gflops(
    case: FpsCase, bench: BenchModel, exit_rate: float | None
) -> float:
    """G multiply-adds of an image, as far as the scope reaches."""
    parts = dict(
        backbone=bench.net,
        fpn=_Parts(bench.net, bench.pyramid, None),
        head=bench.model,
    )
    with _exits(case, bench):
        flops = model_flops(parts[case.scope], case.size)
    return flops.expected(exit_rate or 0.0).total() / 1e9


class _Parts:
    """What :func:`model_flops` looks for in a model."""

    def __init__(self, backbone, neck, decode_head) -> None:
        self.backbone, self.neck = backbone, neck
        self.decode_head = decode_head

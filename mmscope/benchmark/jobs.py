"""What fps_bench runs of a model: settings, calls, exits, work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor

from mmscope.models import ForcedExit, exit_settings
from mmscope.ops import use_backend
from mmscope.utils.flops import ModelFlops, model_flops

from .cases import DTYPES, FpsCase
from .models import BenchModel, deciding, run_batch
from .timing import Job

FORCED_ETA = 0.5  # any threshold between the forced confidences 0 and 1
Batches = list[tuple[Tensor, Tensor | None]]


def settings_of(
    case: FpsCase, bench: BenchModel
) -> Callable[[], AbstractContextManager]:
    """Return what sets precision, scan backend and exits inside a block."""
    exits = exits_of(case, bench)

    @contextmanager
    def settings() -> Iterator[None]:
        dtype, kind = DTYPES[case.dtype], torch.device(case.device).type
        precision = torch.autocast(kind, dtype, enabled=dtype is not None)
        with torch.no_grad(), use_backend(case.backend), precision, exits():
            yield

    return settings


def exits_of(
    case: FpsCase, bench: BenchModel
) -> Callable[[], AbstractContextManager]:
    """Return what sets the exits of a case inside a block."""
    if not bench.early_exit:
        return nullcontext
    eta, policy = case.eta, None
    if case.forced is not None:
        # the model's own policy is asked, and then overruled
        policy = ForcedExit(case.forced, bench.net.exit_policy)
        eta = FORCED_ETA
    return partial(exit_settings, bench.net, eta, policy, case.exit_resolution)


def of_each_batch(case: FpsCase, batches: Batches) -> list[FpsCase]:
    """The case of each batch: single images exit or not, as a whole."""
    if case.batch_size > 1 or case.forced is None:
        return [case] * len(batches)
    exiting = round(case.forced * len(batches))
    return [
        replace(case, forced=float(number < exiting))
        for number in range(len(batches))
    ]


def make_job(
    case: FpsCase, bench: BenchModel, batches: Batches
) -> Callable[[], None]:
    """Return a call that runs all batches once."""
    blocks = [settings_of(one, bench) for one in of_each_batch(case, batches)]

    def job() -> None:
        for settings, (images, valid) in zip(blocks, batches, strict=True):
            with settings():
                run_batch(bench, case.scope, images, valid)

    return job


def timed(case: FpsCase, bench: BenchModel, batches: Batches) -> Job:
    """What is timed: all batches, or one by one to know their latency."""
    if case.batch_size > 1:
        return make_job(case, bench, batches)
    return [
        make_job(one, bench, [batch])
        for one, batch in zip(
            of_each_batch(case, batches), batches, strict=True
        )
    ]


def exited_images(
    case: FpsCase, bench: BenchModel, batches: Batches
) -> Tensor | None:
    """Images that exit, (N,) bool; None for a model without exits."""
    if not bench.early_exit:
        return None
    exited, cases = [], of_each_batch(case, batches)
    for one, (images, valid) in zip(cases, batches, strict=True):
        with settings_of(one, bench)(), deciding(bench.model, images):
            exited.append(bench.net.coarse(images, valid).exited)
    return torch.cat(exited).cpu()


def work_of(case: FpsCase, exited: Tensor | None) -> tuple:
    """What tells apart the work of the cases of one model.

    At eta 0 and 1 nobody has to ask the device which images exit.
    """
    if exited is None:
        return (case.scope,)
    asks = case.eta not in (0, 1)
    return case.scope, case.exit_resolution, asks, tuple(exited.tolist())


def flops_of(case: FpsCase, bench: BenchModel) -> ModelFlops:
    """Count all that a scope can reach: the whole model, or its pyramid."""
    model = bench.model
    if case.scope != 'head':
        model = SimpleNamespace(backbone=bench.net, neck=bench.pyramid)
    with exits_of(case, bench)():
        return model_flops(model, case.size)


def gflops_of(flops: ModelFlops, scope: str, rate: float | None) -> float:
    """G multiply-adds of an image, as far as the scope reaches."""
    count = flops.expected(rate or 0.0)
    if scope == 'backbone':
        del count['neck']
    return count.total() / 1e9

"""What fps_bench runs of a model: settings, calls, exits, work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from math import inf
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from mmscope.models import ForcedExit, MambaScopeBackbone, exit_settings
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
    resolution = case.exit_resolution
    if case.share is not None:
        how = share_settings(bench.net, case.share)
        return partial(exit_settings, bench.net, resolution=resolution, **how)
    if not bench.early_exit:
        return nullcontext
    eta, policy = case.eta, None
    if case.forced is not None:
        # the model's own policy is asked, and then overruled
        policy = ForcedExit(case.forced, bench.net.exit_policy)
        eta = FORCED_ETA
    return partial(exit_settings, bench.net, eta, policy, resolution)


def share_settings(net: MambaScopeBackbone, share: float) -> dict[str, float]:
    """What :func:`exit_settings` takes to refine a share in every image."""
    how = dict(eta=1.0, alpha=share)
    # without tau, nobody asks the device what an image needs
    return how if net.tau is None else dict(how, tau=-inf)


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


def refined_cells(
    case: FpsCase, bench: BenchModel, batches: Batches
) -> Tensor | None:
    """Number of cells that are refined in each image, 0 where it exits.

    Returns:
        (N,), or None where all images take the same way, as the model's
        config has it.
    """
    if not (bench.early_exit or counts_cells(case, bench)):
        return None
    cells, cases = [], of_each_batch(case, batches)
    for one, (images, valid) in zip(cases, batches, strict=True):
        with settings_of(one, bench)(), deciding(bench.model, images):
            cells.append(bench.net.coarse(images, valid).num_selected)
    return torch.cat(cells).cpu()


def counts_cells(case: FpsCase, bench: BenchModel) -> bool:
    """Whether work and bound go with what each image gets, not with alpha."""
    return case.share is not None or bench.elastic


def work_of(case: FpsCase, bench: BenchModel, cells: Tensor | None) -> tuple:
    """What tells apart the work of the cases of one model.

    At eta 0 and 1 nobody has to ask the device which images exit, but for
    how many cells they need.
    """
    if cells is None:
        return (case.scope,)
    eta = case.eta if case.share is None else 1
    asks = eta not in ((0, 1) if bench.net.tau is None else (0,))
    return case.scope, case.exit_resolution, asks, tuple(cells.tolist())


def flops_of(case: FpsCase, bench: BenchModel) -> ModelFlops:
    """Count all that a scope can reach: the whole model, or its pyramid."""
    neck = bench.pyramid if isinstance(bench.pyramid, nn.Module) else None
    part = SimpleNamespace(backbone=bench.net, neck=neck)
    with exits_of(case, bench)():
        if case.scope == 'head':
            return model_flops(bench.model, case.size)
        flops = model_flops(part, case.size)
        if not (bench.refines and bench.net.exit_settings.decodes):
            return flops
        return _with_decode(flops, model_flops(bench.model, case.size))


def _with_decode(flops: ModelFlops, whole: ModelFlops) -> ModelFlops:
    """Add that coarse maps are decoded to choose, wherever a scope ends."""
    decode = Counter(decode=(whole.exited - whole.coarse).total())
    again = flops.exited - flops.coarse  # the pyramid stood for the decoder
    return replace(
        flops,
        exited=flops.exited + decode,
        refined=flops.refined - again + decode,
        by_share={
            share: count - again + decode
            for share, count in flops.by_share.items()
        },
    )


def gflops_of(
    flops: ModelFlops,
    scope: str,
    rate: float | None,
    shares: Sequence[float] | None = None,
) -> float:
    """G multiply-adds of an image, as far as the scope reaches.

    Args:
        flops: Count of :func:`flops_of`.
        scope: One of ``SCOPES``.
        rate: Share of images that exit; the others get the largest share of
            cells.
        shares: Share of the cells that each image gets, instead.
    """
    if shares is None:
        count = flops.expected(rate or 0.0)
    else:
        count = flops.mean(shares)
    if scope == 'backbone':
        del count['neck']
    return count.total() / 1e9

"""Images a second: backbone, with FPN, with head, by exits and resolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch

from mmscope.ops import use_backend

from .flops import Size, fine_tokens, model_flops, padded
from .fps_inputs import check_size, make_batches
from .fps_models import (
    SCOPES,
    BenchModel,
    forced_exits,
    run_batch,
    run_queue,
)
from .timing import MIB, Timing, growth_here, stopwatch, time_in_turns

DTYPES = dict(fp32=None, bf16=torch.bfloat16, fp16=torch.float16)
FORCED_ETA = 0.5  # any threshold between the forced confidences 0 and 1


@dataclass(frozen=True)
class FpsCase:
    """What is measured.

    Attributes:
        model: Its name.
        scope: One of ``SCOPES``.
        size: (H, W) before padding.
        batch_size: Images of a batch.
        dtype: 'fp32', or 'bf16' and 'fp16' by autocast.
        backend: Scan backend.
        device: Where it runs.
        eta: Threshold; None where exits are forced or there are none.
        forced: Share of each batch that is made to exit.
        exit_resolution: Where exited images pass neck and head; None for
            models without exits.
        queue: Images that hard ones of several batches are collected to,
            or 0.
    """

    model: str
    scope: str
    size: Size
    batch_size: int
    dtype: str
    backend: str
    device: str
    eta: float | None = None
    forced: float | None = None
    exit_resolution: str | None = None
    queue: int = 0


@dataclass(frozen=True)
class FpsRecord:
    """What was measured; None where it was not.

    Attributes:
        case: What was measured.
        params: Parameters of what ran.
        exit_rate: Share of the timed images that exited.
        time: Milliseconds of one image.
        fps: Images a second, of the median.
        log10_fps: Its logarithm.
        vs_vim: FPS over that of the plain Vim in the same run and scope.
        memory: Peak memory above weights and images, MiB.
        gflops: G multiply-adds of an image at that exit rate.
        bound: What ``vs_vim`` could be at best, see :func:`speed_bound`.
        share_of_bound: ``vs_vim`` over it.
        reason: Why it could not run.
    """

    case: FpsCase
    params: int
    exit_rate: float | None = None
    time: Timing | None = None
    fps: float | None = None
    log10_fps: float | None = None
    vs_vim: float | None = None
    memory: float | None = None
    gflops: float | None = None
    bound: float | None = None
    share_of_bound: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class FpsPlan:
    """Everything that one call of the bench measures.

    Attributes:
        etas: Thresholds for natural exits.
        forced: Shares of each batch that are made to exit.
        sizes: Resolutions (H, W).
        batch_sizes: Images of a batch.
        scopes: Of ``SCOPES``.
        exit_resolutions: 'fine', 'coarse' or both.
        dtype: Of ``DTYPES``.
        backend: Scan backend.
        device: Where to run.
        batches: Batches of different images that are timed together.
        repeats: Turns of each.
        queue: See :class:`FpsCase`; 0 measures no queue.
    """

    etas: tuple[float, ...] = (0.7,)
    forced: tuple[float, ...] = ()
    sizes: tuple[Size, ...] = ((512, 512),)
    batch_sizes: tuple[int, ...] = (4,)
    scopes: tuple[str, ...] = SCOPES
    exit_resolutions: tuple[str, ...] = ('fine', 'coarse')
    dtype: str = 'fp32'
    backend: str = 'auto'
    device: str = 'cpu'
    batches: int = 1
    repeats: int = 3
    queue: int = 0

    def check(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            ValueError: naming the value, what is allowed, and the fix.
        """
        for name, values in (
            ('--eta', self.etas),
            ('--force-exit', self.forced),
        ):
            for value in values:
                if not 0 <= value <= 1:
                    raise ValueError(
                        f'{name} must be in [0, 1], got {value:g}'
                    )
        for size in self.sizes:
            check_size(size)
        for name, number in (
            ('--batch-size', min(self.batch_sizes)),
            ('--num-batches', self.batches),
            ('--repeats', self.repeats),
        ):
            if number < 1:
                raise ValueError(f'{name} must be at least 1, got {number}')
        for share, batch in product(self.forced, self.batch_sizes):
            if not math.isclose(share * batch, round(share * batch)):
                raise ValueError(
                    f'--force-exit {share:g} of a batch of {batch} is no '
                    'whole number of images; change it or --batch-size'
                )
        if self.dtype == 'fp16' and self.device == 'cpu':
            raise ValueError(
                '--dtype fp16 needs a GPU; on the CPU use fp32 or bf16'
            )

    def cases(
        self, bench: BenchModel, size: Size, batch: int
    ) -> list[FpsCase]:
        """What is measured of one model, at one size and batch size."""
        settings = (size, batch, self.dtype, self.backend, self.device)
        cases = []
        for scope in self.scopes:
            plain = FpsCase(bench.name, scope, *settings)
            if not bench.early_exit:
                cases.append(plain)
                continue
            exits = [dict(eta=eta) for eta in self.etas]
            exits += [dict(forced=share) for share in self.forced]
            queues = (0, self.queue) if self.queue else (0,)
            for how, resolution, queue in product(
                exits, self.exit_resolutions, queues
            ):
                case = replace(
                    plain, **how, exit_resolution=resolution, queue=queue
                )
                if self._adds_something(case):
                    cases.append(case)
        return cases

    def _adds_something(self, case: FpsCase) -> bool:
        """Whether no other case of the plan is the same work."""
        if len(self.exit_resolutions) < 2 or case.exit_resolution == 'fine':
            return True
        never = case.eta == 1 or case.forced == 0
        return case.scope != 'backbone' and not never


@contextmanager
def settings_of(case: FpsCase, bench: BenchModel) -> Iterator[None]:
    """Set precision, scan backend and exits inside the block."""
    net = bench.net
    with torch.no_grad(), use_backend(case.backend), _autocast(case):
        if case.exit_resolution is None:
            yield
            return
        before = net.exit_resolution
        net.exit_resolution = case.exit_resolution
        try:
            with forced_exits(net, case.forced):
                yield
        finally:
            net.exit_resolution = before


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
            if case.queue:
                run_queue(bench, case.scope, batches, eta_of(case), case.queue)
                return
            for images, valid in batches:
                run_batch(bench, case.scope, images, valid, eta_of(case))

    return job


def count_exits(
    case: FpsCase, bench: BenchModel, batches: list
) -> float | None:
    """Share of the images that exit, None for a model without exits."""
    if not bench.early_exit:
        return None
    with settings_of(case, bench):
        exited = [
            bench.net.look(images, valid, eta_of(case)).decision.exited
            for images, valid in batches
        ]
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
    """The same measurement, of one image."""
    return Timing(
        timing.median / images,
        timing.minimum / images,
        timing.spread / images,
        timing.calls,
    )


def peak_memory(job: Callable[[], object], device: str) -> float | None:
    """Peak memory of a call above weights and images, MiB."""
    if device == 'cpu':
        return growth_here(job)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    job()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def count_gflops(
    case: FpsCase, bench: BenchModel, exit_rate: float | None
) -> float:
    """G multiply-adds of an image, as far as the scope reaches."""
    net = bench.net
    before = getattr(net, 'exit_resolution', None)
    if case.exit_resolution is not None:
        net.exit_resolution = case.exit_resolution
    try:
        parts = dict(
            backbone=net,
            fpn=_Parts(net, bench.pyramid, None),
            head=bench.model,
        )
        flops = model_flops(parts[case.scope], case.size)
    finally:
        if before is not None:
            net.exit_resolution = before
    return flops.expected(exit_rate or 0.0).total() / 1e9


class _Parts:
    """What :func:`model_flops` looks for in a model."""

    def __init__(self, backbone, neck, decode_head) -> None:
        self.backbone, self.neck = backbone, neck
        self.decode_head = decode_head


def speed_bound(
    coarse: float,
    fine: float,
    head: float,
    exit_rate: float,
    refined_tail: float,
    exited_tail: float,
) -> float:
    """How many times as fast as Vim MambaScope can be.

    All in units of the time of Vim's backbone, if that goes with its tokens.

    Args:
        coarse: Coarse pass, c.
        fine: Fine pass, f.
        head: Neck and head behind Vim, h.
        exit_rate: Share of images that exit, p.
        refined_tail: Neck and head of a refined image: h, but for padding.
        exited_tail: Of an exited image: the same where it is decoded at
            stride 16, a quarter at stride 32.
    """
    tail = exit_rate * exited_tail + (1 - exit_rate) * refined_tail
    return (1 + head) / (coarse + (1 - exit_rate) * fine + tail)


def compare(
    records: Sequence[FpsRecord], models: dict[str, BenchModel]
) -> list[FpsRecord]:
    """Fill in what relates to the plain Vim of the same architecture.

    Args:
        records: Measured in turns, at one size and batch size.
        models: By name.
    """
    measured = {
        (r.case.model, r.case.scope): r.time.median
        for r in records
        if r.time is not None and r.exit_rate is None
    }
    compared = []
    for record in records:
        vim = _baseline(models[record.case.model], models)
        key = (vim.name if vim else '', record.case.scope)
        if record.time is None or key not in measured:
            compared.append(record)
            continue
        ratio = measured[key] / record.time.median
        record = replace(record, vs_vim=ratio)
        backbone = measured.get((vim.name, 'backbone'))
        if record.exit_rate is not None and backbone is not None:
            head = measured[key] / backbone - 1
            bound = _bound(record, models[record.case.model], vim, head)
            record = replace(record, bound=bound, share_of_bound=ratio / bound)
        compared.append(record)
    return compared


def _baseline(
    bench: BenchModel, models: dict[str, BenchModel]
) -> BenchModel | None:
    """The Vim of the same width, or else the smallest, None without any."""
    vims = [other for other in models.values() if other.is_vim]
    same = [vim for vim in vims if vim.channels == bench.channels]
    return min(same or vims, key=lambda vim: vim.channels, default=None)


def _bound(
    record: FpsRecord, bench: BenchModel, vim: BenchModel, head: float
) -> float:
    net, size = bench.net, record.case.size
    own, plain = (
        math.prod(padded(size, n.size_divisor)) // n.patch_size**2
        for n in (net, vim.net)
    )
    head = max(head, 0.0)
    tail = head * own / plain  # padding may differ
    at_coarse = record.case.exit_resolution == 'coarse'
    return speed_bound(
        coarse=(own // 4 + 1) / (plain + 1),
        fine=fine_tokens(net, size) / (plain + 1),
        head=head,
        exit_rate=record.exit_rate,
        refined_tail=tail,
        exited_tail=tail / 4 if at_coarse else tail,
    )

"""Images a second: backbone, with FPN, with head, by exits and resolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import Tensor

from mmscope.utils.flops import ModelFlops, Size

from .bound import compare, count_cells, fine_tokens
from .cases import FpsCase, FpsPlan, FpsRecord, describe_exits
from .inputs import fit, make_batches
from .jobs import (
    Batches,
    counts_cells,
    flops_of,
    gflops_of,
    refined_cells,
    timed,
    work_of,
)
from .memory import peak_memory
from .models import SCOPES, BenchModel
from .timing import Job, Timing, time_in_turns

OUT_OF_MEMORY = torch.OutOfMemoryError


def bench_fps(
    models: Sequence[BenchModel],
    images: Sequence[np.ndarray],
    plan: FpsPlan,
    memory: bool = True,
    step: Callable[[], None] = lambda: None,
    keep: Callable[[list[FpsRecord]], None] = lambda records: None,
) -> list[FpsRecord]:
    """Time all models, those of one size and batch size in turns.

    A batch that does not fit into a GPU's memory is halved for all models of
    that size.

    Args:
        models: What to measure.
        images: RGB images (H, W, 3).
        plan: How.
        memory: Whether to measure memory, with one more call of each.
        step: Called after each turn, and after each measurement of memory.
        keep: Called with all records so far, after each size and batch size.

    Raises:
        ValueError: the plan cannot be measured.
    """
    plan.check()
    records = []
    for size, asked in product(plan.sizes, plan.batch_sizes):
        pictures = [fit(image, size) for image in images]
        group = partial(_Group, models, pictures, plan, size, memory=memory)
        batch = asked
        while True:
            try:
                found = group(batch, fatal=_fatal(plan, batch)).measure(step)
                break
            except OUT_OF_MEMORY:
                batch //= 2
            torch.cuda.empty_cache()
        if batch < asked:
            note = f'a batch of {asked} does not fit at {size[0]}x{size[1]}'
            found = [
                replace(r, note='; '.join(filter(None, [r.note, note])))
                for r in found
            ]
        records += compare(found, {bench.name: bench for bench in models})
        keep(records)
    return records


def _fatal(plan: FpsPlan, batch: int) -> tuple[type[Exception], ...]:
    """Errors after which a smaller batch is tried, if there is one."""
    divisible = batch % 2 == 0 and plan.splits(batch // 2)
    return (OUT_OF_MEMORY,) if divisible else ()


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


@dataclass
class _Group:
    """What is measured in turns: all models at one size and batch size.

    Attributes:
        models: What is measured.
        images: RGB images of that size, (H, W, 3).
        plan: How.
        size: (H, W) before padding.
        batch: Images of a batch.
        memory: Whether to measure memory.
        fatal: Errors that end the measurement.
        jobs: What is timed.
        records: What is known of each case.
        twins: Cases that are the same work as another.
        flops: Counted so far, by model, share and where exited images end.
    """

    models: Sequence[BenchModel]
    images: Sequence[np.ndarray]
    plan: FpsPlan
    size: Size
    batch: int
    memory: bool
    fatal: tuple[type[Exception], ...] = ()
    jobs: dict[FpsCase, Job] = field(default_factory=dict)
    records: dict[FpsCase, FpsRecord] = field(default_factory=dict)
    twins: dict[FpsCase, FpsCase] = field(default_factory=dict)
    flops: dict[tuple, ModelFlops] = field(default_factory=dict)

    def measure(self, step: Callable[[], None]) -> list[FpsRecord]:
        """Time everything, and call ``step`` after each turn."""
        for bench in self.models:
            self._prepare(bench, step)
        timings = time_in_turns(
            *(self.jobs, self.plan.repeats, self.plan.device, step),
            fatal=self.fatal,
            cpu_time=self.plan.cpu_time,
        )
        for case, timing in timings.items():
            self.records[case] = self._filled(case, timing, step)
        for case, twin in self.twins.items():
            how, same = describe_exits(case), describe_exits(twin)
            note = f'{how} is the same work as {same}, measured once'
            record = replace(self.records[twin], case=case, note=note)
            self.records[case] = record
        order = SCOPES.index
        return sorted(self.records.values(), key=lambda r: order(r.case.scope))

    def _prepare(self, bench: BenchModel, step: Callable[[], None]) -> None:
        """Make the jobs of one model, those of equal work once."""
        batches = make_batches(
            *(self.images, bench, self.size, self.batch),
            *(self.plan.batches, self.plan.device),
        )
        cells, seen = {}, {}
        for case in self.plan.cases(bench, self.size, self.batch):
            how = (case.eta, case.forced, case.share)
            if bench.decodes:
                how += (case.exit_resolution,)
            if how not in cells:
                cells[how] = refined_cells(case, bench, batches)
            work = work_of(case, bench, cells[how])
            if work in seen:
                self.twins[case] = seen[work]
                params = bench.parameters(case.scope)
                self.records[case] = FpsRecord(case, params)
            elif bench.decodes or self._adds_something(case, cells[how]):
                seen[work] = case
                self._add(case, bench, batches, cells[how])
            if case not in self.jobs:
                for _ in range(self.plan.repeats + self.memory):
                    step()

    def _adds_something(self, case: FpsCase, cells: Tensor | None) -> bool:
        """Whether a case is not the same as one at the fine resolution."""
        if case.exit_resolution != 'coarse' or (cells == 0).any():
            return True
        return 'fine' not in self.plan.exit_resolutions

    def _add(
        self,
        case: FpsCase,
        bench: BenchModel,
        batches: Batches,
        cells: Tensor | None,
    ) -> None:
        rate = None if cells is None else (cells == 0).float().mean().item()
        record = FpsRecord(case, bench.parameters(case.scope), rate)
        if counts_cells(case, bench):
            record = replace(record, **self._refined(bench, cells))
        if reason := bench.why_not(case.scope):
            self.records[case] = replace(record, reason=reason)
            return
        self.jobs[case] = timed(case, bench, batches)
        gflops = self._gflops(case, bench, rate, cells)
        self.records[case] = replace(record, gflops=gflops)

    def _refined(self, bench: BenchModel, cells: Tensor) -> dict[str, float]:
        """How many cells the images got, as a record has it."""
        num_cells = count_cells(bench.net, self.size)
        tokens = [
            fine_tokens(bench.net, self.size, number)
            for number in cells[cells > 0].tolist()
        ]
        return dict(
            mean_share=round(cells.float().mean().item() / num_cells, 6),
            fine_tokens=sum(tokens) / max(len(tokens), 1),
        )

    def _filled(
        self, case: FpsCase, timing: Timing | str, step: Callable[[], None]
    ) -> FpsRecord:
        """A record with what was measured, or why nothing was."""
        record = self.records[case]
        if isinstance(timing, str):
            return replace(record, reason=timing)
        peak = None
        if self.memory:
            job = self.jobs[case]
            job = job if callable(job) else job[0]
            self._forget_graphs()
            peak = peak_memory(job, self.plan.device)
            step()
        time = per_image(timing, self.batch * self.plan.batches)
        fps = 1e3 / time.median
        return replace(
            record,
            time=time,
            fps=fps,
            log10_fps=math.log10(fps),
            memory=peak,
        )

    def _forget_graphs(self) -> None:
        """What CUDA graphs hold is theirs, not a pass's."""
        for bench in self.models:
            graphs = getattr(bench.net, 'block_graphs', None)
            if graphs is not None:
                graphs.clear()

    def _gflops(
        self,
        case: FpsCase,
        bench: BenchModel,
        rate: float | None,
        cells: Tensor | None,
    ) -> float:
        key = (bench.name, case.scope == 'head', case.exit_resolution)
        key += (case.share,)
        if key not in self.flops:
            self.flops[key] = flops_of(case, bench)
        got = None
        if counts_cells(case, bench):
            got = (cells / count_cells(bench.net, self.size)).tolist()
        return gflops_of(self.flops[key], case.scope, rate, got)


def per_image(timing: Timing, images: int) -> Timing:
    """The same measurement, of one image; parts of a call stay as they are."""
    return replace(
        timing,
        median=timing.median / images,
        minimum=timing.minimum / images,
        spread=timing.spread / images,
    )

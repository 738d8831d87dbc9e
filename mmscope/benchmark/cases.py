"""What fps_bench measures, and what it finds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product

import torch

from mmscope.utils.flops import Size

from .inputs import check_size
from .models import SCOPES, BenchModel
from .timing import Timing

DTYPES = dict(fp32=None, bf16=torch.bfloat16, fp16=torch.float16)


@dataclass(frozen=True)
class FpsCase:
    """What is measured.

    Attributes:
        model: Name of the model.
        scope: One of ``SCOPES``.
        size: (H, W) before padding.
        batch_size: Images of a batch.
        dtype: 'fp32', or 'bf16' and 'fp16' by autocast.
        backend: Scan backend.
        device: Device that it runs on.
        eta: Threshold; None where exits are forced or there are none.
        forced: Share of each batch that is made to exit; of all images where
            they come one by one.
        exit_resolution: Where exited images pass neck and head; None for
            models without exits.
        share: Share of the cells that is refined in every image, in (0, 1],
            so that none exits; None leaves it to the model.
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
    share: float | None = None


def describe_exits(case: FpsCase) -> str:
    """How a case's images come to exit, '-' for models without exits."""
    if case.share is not None:
        how = f'share {case.share:g}'
    elif case.exit_resolution is None:
        return '-'
    elif case.forced is not None:
        how = f'forced {case.forced:g}'
    else:
        how = f'eta {case.eta:g}'
    if case.exit_resolution == 'coarse':
        how += ', at 1/32'
    return how


@dataclass(frozen=True)
class FpsRecord:
    """What was measured; None where it was not.

    Attributes:
        case: What was measured.
        params: Parameters of what ran.
        exit_rate: Share of the timed images that exited.
        mean_share: Mean of the shares of cells that were refined in the
            timed images, 0 where one exited; None where alpha alone says it.
        fine_tokens: Mean number of tokens in the fine passes of those that
            were refined; None with ``mean_share``.
        time: Milliseconds of one image.
        fps: Images a second, of the median.
        log10_fps: Its logarithm.
        vs_vim: FPS over that of the plain Vim in the same run and scope.
        vs_official: The same over the official Vim's sequence of calls.
        memory: Peak memory above weights and images, MiB.
        gflops: G multiply-adds of an image, mean over the timed ones.
        bound: What ``vs_vim`` could be at best, see :func:`speed_bound`.
        share_of_bound: ``vs_vim`` over it.
        score: Metric of the dataset at these exits, 'mIoU 41.30'.
        note: What else must be known.
        reason: Why it could not run.
    """

    case: FpsCase
    params: int
    exit_rate: float | None = None
    mean_share: float | None = None
    fine_tokens: float | None = None
    time: Timing | None = None
    fps: float | None = None
    log10_fps: float | None = None
    vs_vim: float | None = None
    vs_official: float | None = None
    memory: float | None = None
    gflops: float | None = None
    bound: float | None = None
    share_of_bound: float | None = None
    score: str | None = None
    note: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class FpsPlan:
    """Everything that one call of the bench measures.

    Attributes:
        etas: Thresholds for natural exits.
        forced: Shares of each batch that are made to exit.
        shares: Shares of the cells that are refined in every image, by
            models that refine cells.
        sizes: Resolutions (H, W).
        batch_sizes: Images of a batch.
        scopes: Some of ``SCOPES``.
        exit_resolutions: 'fine', 'coarse' or both.
        dtype: One of ``DTYPES``.
        backend: Scan backend.
        device: Device to run on.
        batches: Batches of different images that are timed together.
        repeats: Turns of each.
        cpu_time: Whether the CPU's time is taken, not the clock's.
    """

    etas: tuple[float, ...] = (0.7,)
    forced: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    sizes: tuple[Size, ...] = ((512, 512),)
    batch_sizes: tuple[int, ...] = (4,)
    scopes: tuple[str, ...] = SCOPES
    exit_resolutions: tuple[str, ...] = ('fine', 'coarse')
    dtype: str = 'fp32'
    backend: str = 'auto'
    device: str = 'cpu'
    batches: int = 1
    repeats: int = 3
    cpu_time: bool = False

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
        for share in self.shares:
            if not 0 < share <= 1:
                raise ValueError(
                    '--force-share must be in (0, 1], a share of the cells, '
                    f'got {share:g}; --force-exit 1 refines none'
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
            if not self.divides(share, batch):
                raise ValueError(
                    f'--force-exit {share:g} of a batch of {batch} is no '
                    'whole number of images; change it or --batch-size (or '
                    '--num-batches of single images)'
                )
        if self.dtype == 'fp16' and self.device == 'cpu':
            raise ValueError(
                '--dtype fp16 needs a GPU; on the CPU use fp32 or bf16'
            )

    def splits(self, batch: int) -> bool:
        """Whether forced shares of a batch are whole images."""
        return all(self.divides(share, batch) for share in self.forced)

    def divides(self, share: float, batch: int) -> bool:
        """Whether a share is of whole images; of all that come one by one."""
        images = share * (batch if batch > 1 else self.batches)
        return math.isclose(images, round(images))

    def cases(
        self, bench: BenchModel, size: Size, batch: int
    ) -> list[FpsCase]:
        """What is measured of one model, at one size and batch size."""
        settings = (size, batch, self.dtype, self.backend, self.device)
        cases = []
        for scope in self.scopes:
            plain = FpsCase(bench.name, scope, *settings)
            shares = self.shares if bench.refines else ()
            refined = [dict(share=share) for share in shares]
            if not bench.early_exit:
                cases.append(plain)
                cases += [replace(plain, **how) for how in refined]
                continue
            exits = [dict(eta=eta) for eta in self.etas]
            exits += [dict(forced=share) for share in self.forced]
            hows = product([*exits, *refined], self.exit_resolutions)
            for how, resolution in hows:
                case = replace(plain, **how, exit_resolution=resolution)
                if bench.decodes or self._adds_something(case, bench):
                    cases.append(case)
        return cases

    def _adds_something(self, case: FpsCase, bench: BenchModel) -> bool:
        """Whether no other case of the plan is the same work."""
        if len(self.exit_resolutions) < 2 or case.exit_resolution == 'fine':
            return True
        never = case.eta == 1 or case.forced == 0
        # with tau, an image without a cell worth refining exits at any eta
        never = case.share is not None or (never and bench.net.tau is None)
        return case.scope != 'backbone' and not never

"""What ``benchmarks.gpu`` measures: machine, scans, nets, training steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mmscope.benchmark.memory import peak_memory
from mmscope.benchmark.official_vim import (
    OfficialVim,
    StockKernels,
    plain_add_norm,
    plain_conv,
    stock_kernels,
    why_no_kernels,
)
from mmscope.benchmark.timing import Timing, time_in_turns
from mmscope.models import VisionMambaBackbone
from mmscope.ops import selective_scan

from .gpu_report import Row
from .scan_bench import bench_scan
from .scan_cases import ScanCase

Nets = dict[str, nn.Module | str]


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        device: 'cuda', 'cuda:N' or 'cpu'.
        dtype: Dtype of scans, and of autocast around backbones.
        arch: Architecture of the backbones.
        dim: Channels of the scans.
        scans: Batch B and tokens L of each.
        scanners: Contenders, the baseline of ratios first.
        backbones: Batch and side of images, forward.
        training: The same, for a training step.
        copied: Bytes that are copied to measure bandwidth.
        product: Side of the square matrices that are multiplied.
        repeats: Turns of each job.
    """

    device: str = 'cuda'
    dtype: str = 'bfloat16'
    arch: str | tuple = 'tiny'
    dim: int = 384
    scans: tuple[tuple[int, int], ...] = (
        *((64, 1025), (64, 257), (16, 4097), (16, 6085), (1, 1025)),
    )
    scanners: tuple[str, ...] = (
        *('vim', 'selective_scan_cuda', 'mamba_ssm', 'triton'),
    )
    backbones: tuple[tuple[int, int], ...] = ((64, 512), (1, 512), (64, 1024))
    training: tuple[tuple[int, int], ...] = ((64, 224), (16, 512))
    copied: int = 2**30
    product: int = 8192
    repeats: int = 5


DRY_RUN = Sizes(
    device='cpu',
    arch=(('embed_dims', 16), ('num_layers', 2), ('d_state', 2)),
    dim=8,
    scans=((2, 9), (1, 5)),
    scanners=('selective_scan_ref', 'cpu', 'torch', 'mamba_ssm'),
    backbones=((2, 32), (1, 32)),
    training=((2, 32),),
    copied=2**16,
    product=16,
    repeats=1,
)


def reference_kernels() -> StockKernels:
    """The official sequence without a GPU: mmscope's reference scan."""

    def scan(u, delta, A, B, C, D, z, delta_bias):
        return selective_scan(
            *(u, delta, A, B[:, 0], C[:, 0], D, z, delta_bias),
            delta_softplus=True,
            backend='reference',
        )

    names = dict(scan='reference', conv='F.conv1d', add_norm='mmscope')
    return StockKernels(names, scan, plain_conv, plain_add_norm)


def autocast(sizes: Sizes) -> AbstractContextManager:
    """Autocast to the dtype of the run."""
    if sizes.dtype == 'float32':
        return nullcontext()
    kind = torch.device(sizes.device).type
    return torch.autocast(kind, getattr(torch, sizes.dtype))


def build_nets(sizes: Sizes, side: int) -> Nets:
    """Ours and the official sequence on the same weights, or its reason."""
    arch = sizes.arch if isinstance(sizes.arch, str) else dict(sizes.arch)
    layers = 24 if isinstance(arch, str) else arch['num_layers']
    last = (layers - 1,)
    options = dict(arch=arch, img_size=side, out_indices=last)
    ours = VisionMambaBackbone(**options).to(sizes.device)
    on_gpu = torch.device(sizes.device).type == 'cuda'
    if on_gpu and (reason := why_no_kernels(sizes.device)):
        return dict(official_vim=reason, ours=ours)
    kernels = stock_kernels() if on_gpu else reference_kernels()
    official = OfficialVim(kernels=kernels, **options).to(sizes.device)
    official.load_state_dict(ours.state_dict())
    return dict(official_vim=official, ours=ours)


def bench_machine(sizes: Sizes) -> list[Row]:
    """What the machine can do at best: copy, and multiply matrices."""
    options = dict(device=sizes.device, dtype=torch.bfloat16)
    source = torch.ones(sizes.copied // 2, **options)
    target = torch.empty_like(source)
    a, b = (torch.ones(sizes.product, sizes.product, **options) for _ in '12')
    cases = {
        'copy': f'{sizes.copied / 2**20:g} MiB, read and written',
        'product': f'{sizes.product} x {sizes.product}, bfloat16',
    }
    jobs = {
        'copy': lambda: target.copy_(source),
        'product': lambda: torch.mm(a, b),
    }
    work = {
        'copy': (2e-9 * sizes.copied, 'GB/s'),
        'product': (2e-12 * sizes.product**3, 'TFLOP/s'),
    }
    timings = time_in_turns(jobs, sizes.repeats, sizes.device)
    return [
        _row('Machine', cases[name], name, timing, work=work[name])
        for name, timing in timings.items()
    ]


def bench_agreement(sizes: Sizes) -> list[Row]:
    """Largest difference of both nets, over the largest output, float32."""
    section, case = 'Agreement', '2 images of 64 x 64, float32'
    nets = build_nets(sizes, side=64)
    official, ours = nets['official_vim'], nets['ours']
    if isinstance(official, str):
        return [Row(section, case, 'official_vim', note=official)]
    image = torch.rand(2, 3, 64, 64, device=sizes.device)
    with torch.no_grad():
        expected, actual = (net(image)[0] for net in (official, ours))
    apart = (expected - actual).abs().max() / expected.abs().max()
    calls = ', '.join(f'{k} {v}' for k, v in official.kernels.names.items())
    return [
        Row(
            *(section, case, 'ours to official_vim'),
            value=apart.item(),
            unit='of the largest output',
            note=f'official_vim calls: {calls}',
        )
    ]


def bench_scans(
    sizes: Sizes, batch: int, length: int, passes: str
) -> list[Row]:
    """Both directions of one layer, in turns on the same numbers."""
    case = ScanCase(
        *(batch, sizes.dim, length, 16, sizes.dtype, sizes.device),
        threads=torch.get_num_threads(),
        passes=passes,
    )
    records = bench_scan(case, sizes.scanners, sizes.repeats, memory=False)
    return [
        _row(
            f'Scan, {passes}',
            f'B {batch}, L {length}, Dim {sizes.dim}, {sizes.dtype}',
            record.contender,
            record.time or record.reason,
            records[0].time,
        )
        for record in records
    ]


def bench_nets(
    sizes: Sizes,
    section: str,
    batch: int,
    side: int,
    make: Callable[[nn.Module, Tensor, Sizes], Callable[[], object]],
) -> list[Row]:
    """Both nets in turns.

    Args:
        sizes: What is measured.
        section: Heading of the rows.
        batch: Images of a batch.
        side: Height and width of the images.
        make: Returns the call that is timed.
    """
    nets = build_nets(sizes, side)
    images = torch.rand(batch, 3, side, side, device=sizes.device)
    jobs = {
        name: make(net, images, sizes)
        for name, net in nets.items()
        if isinstance(net, nn.Module)
    }
    timings = time_in_turns(jobs, sizes.repeats, sizes.device)
    case = f'batch {batch}, {side} x {side}, {sizes.dtype}'
    rows = []
    for name, net in nets.items():
        row = _row(
            *(section, case, name, timings.get(name, net)),
            baseline=timings.get('official_vim'),
            work=(batch, 'images/s'),
        )
        if row.time is not None:
            peak = peak_memory(jobs[name], sizes.device)
            row = replace(row, memory=peak)
        rows.append(row)
    return rows


def forward(
    net: nn.Module, images: torch.Tensor, sizes: Sizes
) -> Callable[[], object]:
    """A forward pass without gradients."""
    net.eval()

    def call() -> object:
        with torch.no_grad(), autocast(sizes):
            return net(images)

    return call


def training_step(
    net: nn.Module, images: torch.Tensor, sizes: Sizes
) -> Callable[[], object]:
    """Forward, backward and a step of AdamW."""
    net.train()
    fused = torch.device(sizes.device).type == 'cuda'
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-6, fused=fused)

    def call() -> object:
        with autocast(sizes):
            loss = net(images)[0].float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return call


def _row(
    section: str,
    case: str,
    what: str,
    timing: Timing | str,
    baseline: Timing | str | None = None,
    work: tuple[float, str] | None = None,
) -> Row:
    """A row of a timing, or of the reason why there is none.

    Args:
        section: Section of the rows.
        case: Case of the rows.
        what: Name of what was timed.
        timing: Time of a call.
        baseline: Time of what the row is compared with.
        work: Done by one call, and the unit that it has in a second.
    """
    if isinstance(timing, str):
        return Row(section, case, what, note=timing)
    row = Row(section, case, what, timing)
    if isinstance(baseline, Timing):
        row = replace(row, ratio=baseline.median / timing.median)
    if work is not None:
        done, unit = work
        row = replace(row, value=1e3 * done / timing.median, unit=unit)
    return row

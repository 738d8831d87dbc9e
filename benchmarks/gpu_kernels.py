"""Time the Triton kernels in the ways they could be cut, on one GPU.

python -m benchmarks.gpu_kernels --out kernels.json

What it finds decides the static choices in ``mmscope.ops.scan.triton.config``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmscope.ops import add_rms_norm, bidirectional_conv, rms_norm
from mmscope.ops.conv.triton import Span
from mmscope.ops.conv.triton import run_forward as run_conv
from mmscope.ops.scan.inputs import Inputs, Options
from mmscope.ops.scan.triton.config import (
    BACKWARD,
    EVERY,
    INFERENCE,
    TRAINING,
    Config,
    static_config,
)
from mmscope.ops.scan.triton.launch import prepare, run_backward, run_forward

SIZES = ((64, 257), (64, 1025), (16, 4097), (1, 1025))  # B, L
CHUNKS = {(16, 4097): (1, 2, 4, 8), (1, 1025): (8, 16, 32)}
DIM, STATES, RANK = 384, 16, 12  # Vim-Ti


@dataclass(frozen=True)
class Job:
    """One kernel in one form.

    Attributes:
        name: What runs.
        batch, length: B and L.
        config: How the kernel is cut.
        form: What is special about its inputs or outputs.
    """

    name: str
    batch: int
    length: int
    config: Config | Span | None = None
    form: str = ''


def scan_inputs(batch: int, length: int, form: str) -> Inputs:
    """Vim-Ti's in bfloat16, with B and C in rows beside the step sizes."""

    def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(*shape, device='cuda').to(dtype)

    rank = 16 if form == 'padded rows' else RANK
    row = normal(2, batch, length, rank + 2 * STATES)
    if form == 'float32 B, C':
        row, rank = row[..., rank:].float().contiguous(), 0
    _, B, C = row.split([rank, STATES, STATES], dim=-1)
    A = -torch.arange(1.0, STATES + 1, device='cuda')
    return prepare(
        Inputs(
            normal(2, batch, length, DIM),
            normal(2, batch, length, DIM),
            A.expand(2, DIM, STATES),
            B,
            C,
            torch.ones(2, DIM, device='cuda'),
            normal(batch, length, 2 * DIM)[..., DIM:],
            torch.full((2, DIM), -4.0, device='cuda'),
        )
    )


def scan_call(job: Job) -> Callable[[], object]:
    """The launches of one job."""
    inputs = scan_inputs(job.batch, job.length, job.form)
    options = Options(
        True, (False, True), job.form != 'apart', job.form == 'importance'
    )
    save = job.name != 'scan'
    if job.name != 'scan backward':
        return lambda: run_forward(inputs, options, EVERY, save, job.config)
    forward = static_config(inputs.u, STATES, False, True)
    out, _, starts = run_forward(inputs, options, EVERY, True, forward)
    grad = torch.randn_like(out)
    return lambda: run_backward(
        inputs, options, EVERY, starts, grad, job.config
    )


def layer_call(job: Job) -> Callable[[], object]:
    """The convolution or the norm."""
    shape, half = (job.batch, job.length), torch.bfloat16
    if job.name.startswith('conv'):
        x = torch.randn(*shape, 2 * DIM, device='cuda').to(half)[..., DIM:]
        weight, bias = (
            torch.randn(2, DIM, *n, device='cuda', requires_grad=True)
            for n in ((4,), ())
        )
        if job.name == 'conv':
            given = x, weight.detach(), bias.detach()
            return lambda: run_conv(*given, job.config)
        out = bidirectional_conv(x, weight, bias, 'triton')
        grad = torch.randn_like(out)
        return lambda: torch.autograd.grad(
            out, (weight, bias), grad, retain_graph=True
        )
    stream = torch.randn(*shape, DIM // 2, device='cuda')
    update = torch.randn(*shape, DIM // 2, device='cuda').to(half)
    weight = torch.ones(DIM // 2, device='cuda')
    if job.form == 'fused':

        def fused() -> Tensor:
            with torch.autocast('cuda', half):
                return add_rms_norm(stream, update, weight, 1e-5, 'triton')[0]

        return fused
    if job.form == 'apart':
        return lambda: rms_norm(stream + update, weight, 1e-5, 'triton').to(
            half
        )
    return lambda: F.rms_norm(stream + update, (DIM // 2,), weight).to(half)


def jobs() -> Iterator[Job]:
    """All that is measured."""
    for size in SIZES:
        for chunks in CHUNKS.get(size, (1,)):
            for steps, registers in INFERENCE.items():
                yield Job(
                    'scan', *size, Config(32, chunks, steps, 1, registers)
                )
            for steps, registers in TRAINING.items():
                config = Config(32, chunks, steps, 1, registers)
                yield Job('scan and states', *size, config)
            for steps, registers in BACKWARD.items():
                config = Config(32, chunks, steps, 1, registers)
                yield Job('scan backward', *size, config)
    for form in ('padded rows', 'float32 B, C', 'apart', 'importance'):
        for steps, registers in INFERENCE.items():
            config = Config(32, 1, steps, 1, registers)
            yield Job('scan', 64, 1025, config, form)
    for size in SIZES:
        for tokens, channels in product((8, 16, 32), (64, 128)):
            yield Job('conv', *size, Span(tokens, channels))
        yield Job('conv backward', *size)
        for form in ('fused', 'apart', 'torch'):
            yield Job('norm', *size, form=form)


def call_of(job: Job) -> Callable[[], object]:
    """What to time."""
    return scan_call(job) if job.name.startswith('scan') else layer_call(job)


def compile_ahead(job: Job) -> str | None:
    """Fill Triton's cache; the error's text if it fails.

    Sizes do not matter to the code, only whether there are several chunks.
    """
    length = 64 * getattr(job.config, 'chunks', 1)
    try:
        call_of(Job(job.name, 1, min(length, 2048), job.config, job.form))()
        torch.cuda.synchronize()
    except Exception as error:  # Triton's errors have no common base
        return f'{type(error).__name__}: {error}'
    return None


def milliseconds(job: Job, repeats: int) -> float:
    """Median of single calls."""
    call = call_of(job)
    for _ in range(3):
        call()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        times.append((start, end))
    torch.cuda.synchronize()
    return float(torch.tensor([a.elapsed_time(b) for a, b in times]).median())


def measure(todo: list[Job], repeats: int, workers: int) -> list[dict]:
    """Compile in parallel, then time one after the other."""
    kinds = {(j.name, j.form, j.config): j for j in todo}
    spawn = get_context('spawn')
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        errors = dict(
            zip(kinds, pool.map(compile_ahead, kinds.values()), strict=True)
        )
    records = []
    for job in todo:
        error = errors[job.name, job.form, job.config]
        time = None if error else milliseconds(job, repeats)
        records.append(dict(**asdict(job), milliseconds=time, error=error))
    return records


def table(records: list[dict]) -> Table:
    """Rows of a kernel and size together, the fastest in bold."""
    rows = Table('kernel', 'B', 'L', 'form', 'cut', 'ms')
    last = None
    for record in records:
        group = record['name'], record['batch'], record['length']
        if last not in (None, group):
            rows.add_section()
        last, time = group, record['milliseconds']
        same = [
            r['milliseconds']
            for r in records
            if (r['name'], r['batch'], r['length']) == group
            and r['milliseconds']
        ]
        figure = record['error'] or f'{time:.4f}'
        if time is not None and time == min(same):
            figure = f'[bold]{figure}[/bold]'
        cut = '-' if record['config'] is None else str(record['config'][:5])
        rows.add_row(*map(str, group), record['form'] or '-', cut, figure[:60])
    return rows


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', help='kernels whose name starts so')
    parser.add_argument('--repeats', type=int, default=20)
    parser.add_argument('--workers', type=int, default=12, help='compilers')
    parser.add_argument('--out', type=Path, help='json file')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if not torch.cuda.is_available():
        raise SystemExit('no GPU is visible to torch; these kernels need one')
    todo = [j for j in jobs() if j.name.startswith(args.only or '')]
    records = measure(todo, args.repeats, args.workers)
    device = torch.cuda.get_device_name()
    if args.out:
        found = dict(device=device, torch=torch.__version__, records=records)
        args.out.write_text(json.dumps(found, indent=1))
    console = Console(width=110)
    console.print(f'{device}, torch {torch.__version__}')
    console.print(table(records))


if __name__ == '__main__':
    main()

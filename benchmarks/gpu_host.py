"""What the host takes of a pass on a GPU, and how much of that graphs save.

python -m benchmarks.gpu_host --out host.json

A GPU waits wherever Python launches slower than kernels run. Each backbone
runs as users call it, with compiled blocks, and replayed from one CUDA graph,
which is what the GPU itself takes. --profile names the calls that the host
spends its time in.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mmscope.benchmark.cases import DTYPES
from mmscope.benchmark.environment import environment
from mmscope.benchmark.timing import Timing, time_in_turns
from mmscope.models import VisionMambaBackbone
from mmscope.models.block_graphs import BlockGraphs

CASES = ((64, 512), (64, 256), (1, 512), (1, 1024))  # images, their side
FORMS = {
    'as called': None,
    'blocks compiled': {},
    'blocks compiled, reduce-overhead': dict(mode='reduce-overhead'),
}


@dataclass(frozen=True)
class HostRecord:
    """One way to run one pass.

    Attributes:
        batch, side: Images, and pixels of their sides.
        dtype: 'fp32', or what autocast computes in.
        form: How it runs.
        time: Milliseconds of a pass.
        host: Milliseconds until the call returns, with an idle GPU.
        reason: Why it could not run.
    """

    batch: int
    side: int
    dtype: str
    form: str
    time: Timing | None = None
    host: float | None = None
    reason: str | None = None


@contextmanager
def precision(device: str, dtype: torch.dtype | None) -> Iterator[None]:
    """Inference under autocast to a dtype, or in float32."""
    kind = torch.device(device).type
    enabled = dtype is not None
    with torch.no_grad(), torch.autocast(kind, dtype, enabled=enabled):
        yield


def passes(
    net: nn.Module, images: Tensor, dtype: torch.dtype | None
) -> dict[str, Callable[[], object]]:
    """A pass in every form; one that fails to compile does so when called."""
    device = str(images.device)

    def call_of(net: nn.Module) -> Callable[[], object]:
        def call() -> object:
            torch.compiler.cudagraph_mark_step_begin()
            with precision(device, dtype):
                return net(images)

        return call

    calls = {}
    for form, options in FORMS.items():
        copied = copy.deepcopy(net)
        if options is not None:
            for layer in copied.layers:
                layer.compile(**options)
        calls[form] = call_of(copied)
    copied = copy.deepcopy(net)
    copied.block_graphs = BlockGraphs()
    calls['cuda_graphs=True'] = call_of(copied)
    if images.is_cuda:
        calls['one graph'] = replay(call_of(copy.deepcopy(net)))
    return calls


def replay(call: Callable[[], object]) -> Callable[[], object]:
    """Capture a call at the first time, and replay it from then on."""
    graph = None

    def run() -> None:
        nonlocal graph
        if graph is None:
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(3):
                    call()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                call()
        graph.replay()

    return run


def host_milliseconds(
    call: Callable[[], object], device: str, repeats: int
) -> float:
    """Median time until a call returns that finds the device idle."""
    times = []
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    _wait(device)
    return sorted(times)[len(times) // 2]


def _wait(device: str) -> None:
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


def measure(
    net: nn.Module,
    cases: Sequence[tuple[int, int]],
    dtypes: Sequence[str],
    device: str,
    repeats: int,
) -> Iterator[list[HostRecord]]:
    """The records of each case and dtype, as they come."""
    for dtype in dtypes:
        for batch, side in cases:
            torch.compiler.reset()
            images = torch.rand(batch, 3, side, side, device=device)
            calls = passes(net, images, DTYPES[dtype])
            timings = time_in_turns(calls, repeats, device)
            records = []
            for form, timing in timings.items():
                record = HostRecord(batch, side, dtype, form)
                if isinstance(timing, str):
                    settled = dict(reason=timing)
                else:
                    host = host_milliseconds(calls[form], device, repeats)
                    settled = dict(time=timing, host=host)
                records.append(HostRecord(**{**vars(record), **settled}))
            yield records


def profile(net: nn.Module, images: Tensor, dtype: torch.dtype | None) -> str:
    """Where the host spends its time in one pass, most first."""
    kinds = torch.profiler.ProfilerActivity
    activities = [kinds.CPU, *([kinds.CUDA] if images.is_cuda else [])]
    with precision(str(images.device), dtype):
        for _ in range(3):
            net(images)
        with torch.profiler.profile(activities=activities) as profiler:
            net(images)
            _wait(str(images.device))
    return profiler.key_averages().table(
        sort_by='self_cpu_time_total', row_limit=40, max_name_column_width=60
    )


def table(records: Sequence[HostRecord]) -> Table:
    """A row for each form."""
    rows = Table('images', 'side', 'dtype', 'form', 'ms', 'host ms', 'note')
    last = None
    for record in records:
        case = record.batch, record.side, record.dtype
        if last not in (None, case):
            rows.add_section()
        last = case
        figures = ['-', '-']
        if record.time is not None:
            figures = [f'{record.time.median:.3f}', f'{record.host:.3f}']
        note = (record.reason or '')[:60]
        rows.add_row(*map(str, case), record.form, *figures, note)
    return rows


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add('--arch', default='tiny', help='tiny, small or base')
    add('--device', default='cuda', help='cuda, cuda:N or cpu')
    add('--dtype', nargs='+', default=['bf16'], choices=list(DTYPES))
    add('--cases', nargs='+', default=[f'{b}x{s}' for b, s in CASES])
    add('--repeats', type=int, default=10, help='turns of each')
    add('--profile', type=Path, help='text file of what the host does')
    add('--out', type=Path, help='json file')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        facts = environment(args.device, ('triton',))
    except ValueError as error:
        raise SystemExit(f'benchmarks.gpu_host: {error}') from None
    cases = [tuple(map(int, case.split('x'))) for case in args.cases]
    net = VisionMambaBackbone(args.arch).to(args.device).eval()
    if args.profile:
        batch, side = cases[0]
        images = torch.rand(batch, 3, side, side, device=args.device)
        text = profile(net, images, DTYPES[args.dtype[0]])
        args.profile.write_text(text)
    found = []
    runs = measure(net, cases, args.dtype, args.device, args.repeats)
    for records in runs:
        found += records
        if args.out:
            rows = [asdict(record) for record in found]
            text = json.dumps(dict(environment=facts, records=rows), indent=1)
            args.out.write_text(text)
    Console(width=120).print(table(found))


if __name__ == '__main__':
    main()

"""What ``scan_bench`` scans, ready to be called and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from mmscope.benchmark.environment import check_device
from mmscope.benchmark.memory import cuda_growth, peak_growth

from .scan_contenders import Inputs, contenders

DTYPES = {
    'float32': torch.float32,
    'bfloat16': torch.bfloat16,
    'float16': torch.float16,
}
PASSES = ('forward', 'forward+backward')


@dataclass(frozen=True)
class ScanCase:
    """What is scanned, and how.

    Attributes:
        batch: B.
        dim: Channels Dim.
        length: Tokens L.
        state: States S of each channel.
        dtype: Dtype of tokens and weights, a key of ``DTYPES``.
        device: 'cpu' or 'cuda'.
        threads: Threads of torch.
        passes: 'forward', without gradients, or 'forward+backward'.
    """

    batch: int = 1
    dim: int = 384
    length: int = 1025
    state: int = 16
    dtype: str = 'float32'
    device: str = 'cpu'
    threads: int = 1
    passes: str = 'forward'

    def __post_init__(self) -> None:
        for name in ('batch', 'dim', 'length', 'state', 'threads'):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f'{name} must be at least 1, got {value}')
        for name, choices in (('dtype', DTYPES), ('passes', PASSES)):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(
                    f'{name} must be one of {list(choices)}, got {value!r}'
                )
        check_device(self.device)


def make_inputs(case: ScanCase) -> Inputs:
    """Draw arguments of ``bidirectional_scan`` as Vim's layers have them."""
    generator = torch.Generator(case.device).manual_seed(0)
    tokens = (2, case.batch, case.length, case.dim)
    params = (2, case.batch, case.length, case.state)

    def normal(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator, device=case.device)
        return values.to(DTYPES[case.dtype])

    states = torch.arange(1.0, case.state + 1, device=case.device)
    return dict(
        u=normal(*tokens),
        delta=normal(*tokens),
        A=-states.expand(2, case.dim, case.state).contiguous(),
        B=normal(*params),
        C=normal(*params),
        D=torch.ones(2, case.dim, device=case.device),
        z=normal(*tokens[1:]),
        delta_bias=torch.full((2, case.dim), -4.0, device=case.device),
    )


def prepare(name: str, case: ScanCase) -> Callable[[], object]:
    """Return a call of one contender; it holds its inputs."""
    contender = contenders()[name]
    scan, parts = contender.load(), contender.layout(make_inputs(case))
    if case.passes == 'forward':
        return torch.no_grad()(lambda: scan(parts))
    leaves = [
        tensor.requires_grad_() for part in parts for tensor in part.values()
    ]
    tokens = case.batch, case.length, case.dim
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(tokens, generator=generator).to(leaves[0])
    turned = grad.mT.contiguous()

    def both_passes() -> tuple[Tensor, ...]:
        out = scan(parts)
        outs = out if isinstance(out, tuple) else (out,)
        shaped = [grad if o.shape == grad.shape else turned for o in outs]
        return *outs, *torch.autograd.grad(outs, leaves, shaped)

    return both_passes


def prepare_warm(name: str, case: ScanCase) -> Callable[[], object]:
    """As ``prepare``, but libraries and threads are there already."""
    torch.set_num_threads(case.threads)
    small = dict(batch=1, length=4, dim=8, state=2)
    prepare(name, ScanCase(**asdict(case) | small))()
    return prepare(name, case)


def peak_memory(name: str, case: ScanCase) -> float | None:
    """Peak memory of one call above its inputs, in MiB.

    On CPU resident memory, see ``peak_growth``; on a GPU what torch's
    allocator handed out.
    """
    if torch.device(case.device).type == 'cpu':
        return peak_growth(prepare_warm, name, case)
    job = prepare(name, case)
    job()
    return cuda_growth(job, case.device)


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return ``names``, or all contenders for none; raise on unknown ones."""
    known = list(contenders())
    if unknown := set(names) - set(known):
        raise ValueError(f'backends are {known}, got {sorted(unknown)}')
    return tuple(names) or tuple(known)


def refusals(case: ScanCase, names: Sequence[str]) -> dict[str, str | None]:
    """Why each contender cannot run, None where it can."""
    probe = torch.empty(0, dtype=DTYPES[case.dtype], device=case.device)
    known = contenders()
    return {name: known[name].why_not(probe) for name in check_names(names)}

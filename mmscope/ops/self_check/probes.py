"""What a check of an operator runs: inputs, comparison, timing.

Every value and gradient is compared with the same formula in float64 on the
CPU, each on the scale of its own largest entry.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import torch
from torch import Tensor

from .locks import locked

# largest error allowed, relative to the largest entry: several roundings
TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.float16: 4e-3,
    torch.bfloat16: 2e-2,
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
EPS = 1e-5
# one token; an odd number past a chunk, for every backend but the last
LENGTHS = {'mamba_ssm': (1, 67, 2051)}
ANY_LENGTHS = (1, 67)
# as in Vim: whole tiles, and B and C beside the R of a step size in rows that
# start anywhere, so that what the check compiles is what a model then runs
BATCH, DIM, RANK = 2, 64, 12
# batch, tokens, channels of a timing
SIZES = {'cpu': (1, 129, 384)}
SIZES_ELSEWHERE = (16, 1025, 384)
STATES = 16
ENOUGH = 0.05  # seconds of a timing

Tensors = dict[str, Tensor]


class WrongResultError(Exception):
    """A backend differs from the reference."""


def _normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def scan_inputs(batch: int, length: int, dim: int) -> Tensors:
    """Arguments of a scan, in float64 on the CPU."""
    tokens, params = (2, batch, length, dim), (2, batch, length, STATES)
    return {
        'u': _normal(*tokens, seed=0),
        'delta': _normal(*tokens, seed=1),
        'A': -torch.exp(_normal(2, dim, STATES, seed=2)),
        'B': _normal(*params, seed=3),
        'C': _normal(*params, seed=4),
        'D': _normal(2, dim, seed=5),
        'z': _normal(batch, length, dim, seed=6),
        'delta_bias': _normal(2, dim, seed=7) - 1,
    }


def conv_inputs(batch: int, length: int, dim: int) -> Tensors:
    """Arguments of a convolution; x is half of a projection."""
    return {
        'x': _normal(batch, length, 2 * dim, seed=0)[..., :dim],
        'weight': _normal(2, dim, 4, seed=1),
        'bias': _normal(2, dim, seed=2),
    }


def norm_inputs(batch: int, length: int, dim: int) -> Tensors:
    """Arguments of a norm."""
    return {
        'x': _normal(batch, length, dim, seed=0),
        'weight': _normal(dim, seed=1),
    }


# an operator's tensors of these names are weights, kept in float32
WEIGHTS = {'A', 'D', 'delta_bias', 'weight', 'bias'}
INPUTS: dict[str, Callable[[int, int, int], Tensors]] = {
    'scan': scan_inputs,
    'conv': conv_inputs,
    'norm': norm_inputs,
}
OPERATORS = tuple(INPUTS)


def make(
    operator: str,
    sizes: tuple[int, int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensors:
    """Tokens of ``dtype`` with weights of at least float32.

    Args:
        operator: One of ``OPERATORS``.
        sizes: Batch, tokens and channels.
        dtype: Dtype of the tokens.
        device: Device of all tensors.
    """
    wide = torch.promote_types(dtype, torch.float32)
    # a norm answers in the dtype of its weight
    kept = WEIGHTS if operator != 'norm' else ()
    made = {
        name: tensor.to(device, wide if name in kept else dtype)
        for name, tensor in INPUTS[operator](*sizes).items()
    }
    if operator == 'scan':
        rank = made['B'].new_empty(*made['B'].shape[:-1], RANK)
        row = torch.cat([rank, made['B'], made['C']], dim=-1)
        _, made['B'], made['C'] = row.split([RANK, STATES, STATES], dim=-1)
    return made


def call(
    operator: str, backend: str, tensors: Tensors, importance: bool = True
) -> tuple[Tensor, ...]:
    """Outputs of an operator by one backend, asked for by name."""
    from .. import bidirectional_conv, bidirectional_scan, rms_norm

    if operator == 'conv':
        return (bidirectional_conv(**tensors, backend=backend),)
    if operator == 'norm':
        return (rms_norm(**tensors, eps=EPS, backend=backend),)
    out = bidirectional_scan(**tensors, importance=importance, backend=backend)
    return out if importance else (out,)


def values_and_grads(operator: str, backend: str, tensors: Tensors) -> Tensors:
    """Outputs and all gradients, by name."""
    leaves = {k: t.detach().requires_grad_() for k, t in tensors.items()}
    out, *rest = call(operator, backend, leaves)
    weight = _normal(*out.shape, seed=9).to(out)
    grads = torch.autograd.grad(out, list(leaves.values()), weight)
    values = {
        f'the gradient of {k}': g for k, g in zip(leaves, grads, strict=True)
    }
    values['its output'] = out.detach()
    if rest:
        values['the importance'] = rest[0]
    return values


def largest_error(values: Tensors, exact: Tensors, what: str) -> float:
    """The largest error, relative to the largest entry of its tensor.

    Raises:
        WrongResultError: it is beyond ``TOLERANCE``.
    """
    errors = [0.0]
    for name, expected in exact.items():
        value = values[name].to('cpu', torch.float64)
        size = max(expected.abs().max().item(), 1e-30)
        error = (value - expected).abs().max().item() / size
        allowed = TOLERANCE[values['its output'].dtype]
        # so that NaN, too, is an error
        if value.shape != expected.shape or not error <= allowed:
            raise WrongResultError(
                f'{what}, {name} is off by {error:.2g} of its size '
                f'(allowed {allowed:.2g})'
            )
        errors.append(error)
    return max(errors)


def worst_error(
    operator: str, backend: str, dtype: torch.dtype, device: torch.device
) -> float:
    """Compare a backend with the reference, see the module.

    Raises:
        WrongResultError: it differs.
    """
    worst = 0.0
    for length in LENGTHS.get(backend, ANY_LENGTHS):
        tensors = make(operator, (BATCH, length, DIM), dtype, device)
        doubles = {k: t.to('cpu').double() for k, t in tensors.items()}
        exact = values_and_grads(operator, 'reference', doubles)
        trained = values_and_grads(operator, backend, tensors)
        what = f'in {str(dtype)[6:]} at {length} tokens'
        worst = max(worst, largest_error(trained, exact, what))
        with torch.no_grad():
            out, *_ = call(operator, backend, tensors, importance=False)
        exact = {'its output': exact['its output']}
        what += ' without gradients'
        worst = max(worst, largest_error({'its output': out}, exact, what))
    return worst


def _milliseconds(
    run: Callable[[], None], device: torch.device, lock: str | None
) -> float:
    """The best of three turns; one call of something slow is enough."""

    def seconds(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            run()
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        return (time.perf_counter() - start) / times

    first = seconds(1)  # on a GPU, it compiles
    if device.type == 'cpu' and first > ENOUGH:
        return 1e3 * first
    with locked(lock) if lock else contextlib.nullcontext():
        once = seconds(1)
        if once > ENOUGH:
            return 1e3 * once
        times = max(1, min(100, int(ENOUGH / once)))
        return 1e3 * min(seconds(times) for _ in range(3))


def speed(
    operator: str,
    backend: str,
    dtype: torch.dtype,
    device: torch.device,
    lock: str | None = None,
) -> tuple[float, float]:
    """Milliseconds of a forward pass, and of forward and backward.

    Args:
        operator: One of ``OPERATORS``.
        backend: Name of a backend that runs here.
        dtype: Dtype of the tokens.
        device: Device of all tensors.
        lock: Path of a file that is locked while the clock runs.
    """
    sizes = SIZES.get(device.type, SIZES_ELSEWHERE)
    tensors = make(operator, sizes, dtype, device)
    leaves = {k: t.detach().requires_grad_() for k, t in tensors.items()}

    def infer() -> None:
        with torch.no_grad():
            call(operator, backend, tensors, importance=False)

    def train() -> None:
        out, *_ = call(operator, backend, leaves, importance=False)
        torch.autograd.grad(out.sum(), list(leaves.values()))

    return tuple(_milliseconds(run, device, lock) for run in (infer, train))

"""Inputs, gradients and the one tolerance table of the scan tests."""

from __future__ import annotations

import torch
from torch import Tensor

from mmscope.ops import bidirectional_scan

# largest error allowed, relative to the largest value of the tensor
TOLERANCE = {
    torch.float64: 1e-11,
    torch.float32: 1e-5,
    torch.bfloat16: 8e-3,
    torch.float16: 1e-3,
}


def scan_inputs(
    batch: int = 2,
    length: int = 9,
    dim: int = 5,
    states: int = 3,
    dtype: torch.dtype = torch.float64,
    without: tuple[str, ...] = (),
    seed: int = 0,
) -> dict[str, Tensor]:
    """Arguments of ``bidirectional_scan`` by name."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values.to(dtype)

    tokens, params = (2, batch, length, dim), (2, batch, length, states)
    inputs = {
        'u': normal(*tokens),
        'delta': normal(*tokens),
        'A': -torch.exp(normal(2, dim, states)),
        'B': normal(*params),
        'C': normal(*params),
        'D': normal(2, dim),
        'z': normal(batch, length, dim),
        'delta_bias': normal(2, dim) - 1,
    }
    return {k: v for k, v in inputs.items() if k not in without}


def one_direction(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Direction 0 as arguments of ``selective_scan``."""
    out = {k: v if k == 'z' else v[0] for k, v in inputs.items()}
    for name in ('u', 'delta', 'B', 'C', 'z'):
        if name in out:
            out[name] = out[name].mT
    return out


def weight_like(out: Tensor) -> Tensor:
    """The gradient that every test sends into ``out``."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    return weight.to(out)


def with_grads(scan, inputs: dict[str, Tensor], **options):
    """Run ``scan``; returns its outputs and all gradients, by name."""
    leaves = {
        k: v.detach().clone().requires_grad_() for k, v in inputs.items()
    }
    result = scan(**leaves, **options)
    out, *rest = result if isinstance(result, tuple) else (result,)
    out.backward(weight_like(out))
    values = {f'grad of {k}': v.grad for k, v in leaves.items()}
    values['out'] = out.detach()
    if rest:
        values['importance'] = rest[0]
    return values


def assert_agree(
    actual: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype
) -> None:
    """Compare every value with the float64 one, each on its own scale."""
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        exact = expected[name].double()
        kind = torch.float32 if name == 'importance' else dtype
        assert value.dtype == kind, name
        allowed = TOLERANCE[kind] * exact.abs().max().item() + 1e-30
        error = (value.double() - exact).abs().max().item()
        assert error <= allowed, f'{name}: error {error}, allowed {allowed}'


def assert_matches_reference(
    backend: str, inputs: dict[str, Tensor], scan=None, **options
) -> None:
    """Outputs and gradients of ``backend`` against the float64 reference."""
    scan = scan or bidirectional_scan
    exact = {k: v.double() for k, v in inputs.items()}
    expected = with_grads(scan, exact, backend='reference', **options)
    actual = with_grads(scan, inputs, backend=backend, **options)
    assert_agree(actual, expected, inputs['u'].dtype)

"""What the tests of convolution and norm share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scan_cases import TOLERANCE, weight_like
from torch import Tensor

from mmscope.ops.scan import cpu as cpu_scan

needs_build = pytest.mark.skipif(
    cpu_scan.NOT_BUILT is not None, reason=str(cpu_scan.NOT_BUILT)
)


def normal(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Random values that are the same in every dtype but for rounding."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return values.to(dtype)


def values_and_grads(
    function: Callable[..., Tensor], leaves: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Output and all gradients by name; leaves keep their strides."""
    leaves = {k: v.detach().requires_grad_() for k, v in leaves.items()}
    out = function(**leaves)
    grads = torch.autograd.grad(out, leaves.values(), weight_like(out))
    return {'out': out.detach(), **dict(zip(leaves, grads, strict=True))}


def assert_close_to_exact(
    function: Callable[..., Tensor],
    exact: Callable[..., Tensor],
    leaves: dict[str, Tensor],
    dtype: torch.dtype,
) -> None:
    """Compare with ``exact`` in float64, each value on its own scale.

    Args:
        dtype: Of the output; a gradient has that of its leaf.
    """
    doubles = {k: v.double() for k, v in leaves.items()}
    expected = values_and_grads(exact, doubles)
    for name, value in values_and_grads(function, leaves).items():
        assert value.dtype == (dtype if name == 'out' else leaves[name].dtype)
        assert value.shape == expected[name].shape
        # a gradient of a wide leaf has been through the narrow output
        allowed = max(TOLERANCE[dtype], TOLERANCE[value.dtype])
        error = (value.double() - expected[name]).abs().max().item()
        size = expected[name].abs().max().item()
        assert error <= allowed * size, f'{name}: error {error} of {size}'


def assert_same_bits(runs: list[dict[str, Tensor]]) -> None:
    """Every run gave the very same values."""
    for values in runs[1:]:
        for name, value in values.items():
            assert torch.equal(value, runs[0][name]), name

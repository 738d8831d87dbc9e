"""What the scans accept, checked before any backend sees it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

# axis names are bound by the first tensor that has them
CHANNEL_MAJOR = {
    'u': 'B, Dim, L',
    'delta': 'B, Dim, L',
    'A': 'Dim, S',
    'B': 'B, S, L',
    'C': 'B, S, L',
    'D': 'Dim',
    'z': 'B, Dim, L',
    'delta_bias': 'Dim',
}
TOKEN_MAJOR = {
    'u': '2, B, L, Dim',
    'delta': '2, B, L, Dim',
    'A': '2, Dim, S',
    'B': '2, B, L, S',
    'C': '2, B, L, S',
    'D': '2, Dim',
    'z': 'B, L, Dim',
    'delta_bias': '2, Dim',
}


def check_inputs(
    layout: Mapping[str, str], tensors: Mapping[str, Tensor | None]
) -> None:
    """Raise unless the tensors are a scan in ``layout``.

    Args:
        layout: ``CHANNEL_MAJOR`` or ``TOKEN_MAJOR``.
        tensors: By the names in ``layout``; None where left out.
    """
    sizes = {'2': 2}
    device = tensors['u'].device
    for name, axes in layout.items():
        tensor = tensors[name]
        if tensor is None:
            continue
        if not tensor.is_floating_point():
            raise TypeError(
                f'{name} must be a floating point tensor, got '
                f'{tensor.dtype}; cast it first'
            )
        _bind(name, axes, tensor, sizes)
        if tensor.device != device:
            raise ValueError(
                f'{name} is on {tensor.device}, but u on {device}; '
                'move them to one device'
            )


def _bind(name: str, axes: str, tensor: Tensor, sizes: dict[str, int]) -> None:
    """Check one shape against the sizes known so far and add its own."""
    shape, names = tuple(tensor.shape), axes.split(', ')
    if len(shape) != len(names):
        raise ValueError(
            f'{name} must be ({axes}), got {len(shape)} dimensions: {shape}'
        )
    expected = tuple(
        sizes.get(axis, size) for axis, size in zip(names, shape, strict=True)
    )
    if shape != expected:
        raise ValueError(f'{name} must be ({axes}) = {expected}, got {shape}')
    for axis, size in zip(names, shape, strict=True):
        if axis != 'B' and size == 0:
            raise ValueError(
                f'{name} ({axes}) = {shape} has no {axis}; a scan needs at '
                'least one token, channel and state'
            )
    sizes.update(zip(names, shape, strict=True))

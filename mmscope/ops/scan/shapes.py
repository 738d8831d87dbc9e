"""What the operators accept, checked before any backend sees it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import torch
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
    'initial_state': 'B, Dim, S',
}
# of B and C by their number of axes; G and H divide Dim
PARAMETERS = {
    'B': {2: 'Dim, S', 3: 'B, S, L', 4: 'B, G, S, L'},
    'C': {2: 'Dim, S', 3: 'B, S, L', 4: 'B, H, S, L'},
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
ONE_WAY = {
    name: shape.removeprefix('2, ')
    for name, shape in TOKEN_MAJOR.items()
    if name != 'z'
}


class Kind(NamedTuple):
    """What is checked of a tensor.

    Attributes:
        name: Name of the argument.
        shape: Sizes of the tensor.
        dtype: Dtype of the tensor.
        device: Device of the tensor.
    """

    name: str
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


def check_kinds(tensors: Mapping[str, Tensor | None]) -> None:
    """Raise unless all are real floating point tensors on one device.

    Args:
        tensors: By name, the first of them given; None where left out.

    Raises:
        TypeError: one holds integers, booleans or complex numbers.
        ValueError: one is on another device than the first.
    """
    _check_kinds(_kinds(tensors))


def check_inputs(
    layout: Mapping[str, str], tensors: Mapping[str, Tensor | None]
) -> None:
    """Raise unless the tensors fit together in ``layout``.

    Args:
        layout: Axes by name, as ``CHANNEL_MAJOR``; axes of one name have one
            size, and an axis '2' has two.
        tensors: By the names in ``layout``; None where left out.

    Raises:
        TypeError: see :func:`check_kinds`.
        ValueError: the shapes or the devices do not agree.
    """
    kinds = _kinds(tensors)
    axes = tuple(layout[kind.name] for kind in kinds)
    if torch.compiler.is_compiling() or not _is_constant(kinds):
        _check(axes, kinds)
    else:
        _check_once(axes, kinds)


def _kinds(tensors: Mapping[str, Tensor | None]) -> tuple[Kind, ...]:
    return tuple(
        Kind(name, tensor.shape, tensor.dtype, tensor.device)
        for name, tensor in tensors.items()
        if tensor is not None
    )


def _is_constant(kinds: tuple[Kind, ...]) -> bool:
    """Whether no size is a symbol of something that traces."""
    try:
        hash(kinds)
    except TypeError:
        return False
    return True


def _check(axes: tuple[str, ...], kinds: tuple[Kind, ...]) -> None:
    """See :func:`check_inputs`; one string of axes for each kind."""
    sizes = {'2': 2}
    for one, kind in zip(axes, kinds, strict=True):
        _bind(kind.name, one, kind.shape, sizes)
    _check_kinds(kinds)


# a layer is called with the same shapes over and over, and reading axes takes
# longer than launching its kernel; what raises is not kept
_check_once = lru_cache(maxsize=4096)(_check)


def _check_kinds(kinds: tuple[Kind, ...]) -> None:
    first = kinds[0]
    for kind in kinds:
        if not kind.dtype.is_floating_point:
            raise TypeError(
                f'{kind.name} must be a floating point tensor, got '
                f'{kind.dtype}; cast it first'
            )
        if kind.device != first.device:
            raise ValueError(
                f'{kind.name} is on {kind.device}, but {first.name} on '
                f'{first.device}; move them to one device'
            )


def check_channel_major(tensors: Mapping[str, Tensor | None]) -> None:
    """Raise unless the tensors are those of ``selective_scan``.

    Args:
        tensors: By the names in ``CHANNEL_MAJOR``; None where left out.

    Raises:
        TypeError: see :func:`check_kinds`.
        ValueError: the shapes or the devices do not agree.
    """
    layout = dict(CHANNEL_MAJOR)
    for name, choices in PARAMETERS.items():
        shape = tuple(tensors[name].shape)
        if len(shape) not in choices:
            allowed = ' or '.join(f'({axes})' for axes in choices.values())
            raise ValueError(f'{name} must be {allowed}, got {shape}')
        layout[name] = choices[len(shape)]
    check_inputs(layout, tensors)
    dim = tensors['u'].shape[1]
    for name in PARAMETERS:
        shape = tuple(tensors[name].shape)
        if len(shape) == 4 and dim % shape[1]:
            raise ValueError(
                f'{name} ({layout[name]}) = {shape} has {shape[1]} groups, '
                f'which must divide the {dim} channels of u'
            )


def _bind(
    name: str, axes: str, shape: torch.Size, sizes: dict[str, int]
) -> None:
    """Check one shape against the sizes known so far and add its own."""
    shape, names = tuple(shape), axes.split(', ')
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
                f'{name} ({axes}) = {shape} has no {axis}; every axis but '
                'the batch needs at least one entry'
            )
    sizes.update(zip(names, shape, strict=True))

"""Values on disk that are only ever read as data."""

import io
from pathlib import Path
from typing import Any

import torch

from mmscope.utils.checkpoint import load_data


def save_plain(value: Any, path: Path) -> None:
    """Write a value, if :func:`load_plain` will read it.

    Args:
        value: Tensors, arrays, numbers, strings, bytes, and lists, tuples
            and dicts of them; named tuples become plain ones.
        path: File to write.

    Raises:
        TypeError: the value holds anything but plain data.
    """
    with io.BytesIO() as memory:
        try:
            torch.save(_plain(value), memory)
            memory.seek(0)
            load_data(memory)
        except Exception as err:  # objects refuse in many ways
            raise TypeError(f'it holds what is no plain data: {err}') from err
        path.write_bytes(memory.getvalue())


def load_plain(path: Path) -> Any:
    """Read what :func:`save_plain` wrote; no code that it names runs.

    Args:
        path: File to read.

    Raises:
        ValueError: the file holds anything but plain data, or is damaged.
    """
    try:
        return load_data(path)
    except Exception as err:  # what is no such file may raise anything
        raise ValueError(
            f'{path} cannot be read as plain data: {err}'
        ) from err


def _plain(value: Any) -> Any:
    """Containers without types of their own; tensors without their batch."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        kind = list if isinstance(value, list) else tuple
        return kind(map(_plain, value))
    return value

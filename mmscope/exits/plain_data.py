"""Values on disk as json and arrays, which are only ever read as data."""

import base64
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

# json has these as they are
ATOMS = (str, int, float, bool, type(None))
LAYOUT = 'layout'
DAMAGED = (
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    OSError,
    zipfile.BadZipFile,
)


def pack(value: Any, arrays: list[np.ndarray]) -> Any:
    """Turn a value into what json holds; tuples and keys keep their types.

    Args:
        value: Tensors, arrays, numbers, strings, bytes, and lists, tuples
            and mappings of them; named tuples become plain ones.
        arrays: Arrays met so far; those of ``value`` are appended.

    Raises:
        TypeError: it holds anything else.
    """
    if type(value) in ATOMS:
        return value
    if isinstance(value, bytes):
        return {'bytes': base64.b64encode(value).decode()}
    if isinstance(value, torch.Tensor):
        return {'tensor': pack(value.detach().cpu().numpy(), arrays)}
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.hasobject:
            raise TypeError(f'an array of {value.dtype} is no plain data')
        arrays.append(np.asarray(value))
        kind = 'array' if isinstance(value, np.ndarray) else 'number'
        return {kind: len(arrays) - 1}
    if isinstance(value, Mapping):
        return {
            'dict': [[pack(x, arrays) for x in kv] for kv in value.items()]
        }
    if isinstance(value, list | tuple):
        kind = 'list' if isinstance(value, list) else 'tuple'
        return {kind: [pack(one, arrays) for one in value]}
    raise TypeError(f'{type(value).__name__} is no plain data')


def unpack(packed: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Undo :func:`pack`.

    Args:
        packed: Result of :func:`pack`.
        arrays: Arrays of the entry by their number.

    Raises:
        ValueError: it is no result of :func:`pack`.
    """
    if type(packed) in ATOMS:
        return packed
    if not isinstance(packed, dict) or len(packed) != 1:
        raise ValueError('not written by mmscope')
    ((kind, content),) = packed.items()
    match kind:
        case 'bytes':
            return base64.b64decode(content)
        case 'tensor':
            return torch.from_numpy(unpack(content, arrays))
        case 'array':
            return arrays[str(content)]
        case 'number':
            return arrays[str(content)][()]
        case 'dict':
            return {
                unpack(key, arrays): unpack(value, arrays)
                for key, value in content
            }
        case 'list':
            return [unpack(one, arrays) for one in content]
        case 'tuple':
            return tuple(unpack(one, arrays) for one in content)
    raise ValueError(f'not written by mmscope: {kind!r}')


def save_plain(value: Any, path: Path) -> None:
    """Write a value into an archive of numpy's.

    Args:
        value: Plain data, see :func:`pack`.
        path: File to write.

    Raises:
        TypeError: the value holds anything but plain data.
    """
    arrays: list[np.ndarray] = []
    layout = json.dumps(pack(value, arrays))
    members = {str(i): array for i, array in enumerate(arrays)}
    with path.open('wb') as file:
        np.savez(file, **{LAYOUT: np.array(layout)}, **members)


def load_plain(path: Path) -> Any:
    """Read what :func:`save_plain` wrote; no code that it names runs.

    Args:
        path: File to read.

    Raises:
        ValueError: the file holds anything but plain data, or is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as members:
            layout = json.loads(str(members[LAYOUT][()]))
            return unpack(layout, members)
    except DAMAGED as err:
        raise ValueError(
            f'{path} cannot be read as plain data: {err}'
        ) from err

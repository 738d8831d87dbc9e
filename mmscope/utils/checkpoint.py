"""Checkpoints, read without running what they hold."""

import pickle
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

StateDict = dict[str, Tensor]


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, or is not of this model."""


@dataclass
class KeyReport:
    """What became of every key of a checkpoint and of a model.

    Attributes:
        used: Keys that were loaded.
        derived: Keys of the model that were filled from others.
        missing: Keys of the model that the checkpoint lacks.
        unexpected: Keys of the checkpoint that the model does not read.
        expected: Those of the last two that are no cause for concern.
    """

    used: list[str] = field(default_factory=list)
    derived: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    expected: set[str] = field(default_factory=set)

    @property
    def problems(self) -> list[str]:
        """Keys that matter and are missing or unexpected."""
        missing = [f'missing {k}' for k in self.missing]
        unexpected = [f'unexpected {k}' for k in self.unexpected]
        return [
            line
            for line in missing + unexpected
            if line.split(' ', 1)[1] not in self.expected
        ]

    def expect(self, pattern: str, keys: Iterable[str]) -> None:
        """Count those of the keys as expected that begin as told."""
        self.expected.update(key for key in keys if re.match(pattern, key))

    def check(self, what: str) -> None:
        """Raise CheckpointError, which begins with ``what``, on problems."""
        problems = self.problems
        if problems:
            shown = '; '.join(problems[:8])
            rest = len(problems) - 8
            more = f' and {rest} more' if rest > 0 else ''
            raise CheckpointError(
                f'{what}: {shown}{more}; check arch and checkpoint'
            )

    def __str__(self) -> str:
        lines = []
        for name in ('used', 'derived', 'missing', 'unexpected'):
            keys = getattr(self, name)
            lines.append(f'{name}: {len(keys)}')
            for key in keys:
                note = ' (expected)' if key in self.expected else ''
                lines.append(f'  {key}{note}')
        return '\n'.join(lines)


def read_state_dict(path: str | Path) -> StateDict:
    """Read the weights of a checkpoint, whatever they are wrapped in.

    Args:
        path: A file with a state dict, bare or under 'model' (official Vim)
            or 'state_dict' (mmengine).

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is truncated or no checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'checkpoint {path} does not exist; check the path'
        )
    checkpoint = _load_file(path)
    for wrapper in ('model', 'state_dict'):
        if isinstance(checkpoint, dict) and wrapper in checkpoint:
            checkpoint = checkpoint[wrapper]
    if (
        not isinstance(checkpoint, dict)
        or not checkpoint
        or not all(isinstance(v, Tensor) for v in checkpoint.values())
    ):
        raise CheckpointError(
            f'{path} is not a checkpoint: expected a state dict, bare or '
            f"under 'model' or 'state_dict', got {type(checkpoint).__name__}"
        )
    return {k.removeprefix('module.'): v for k, v in checkpoint.items()}


class _TensorUnpickler(pickle.Unpickler):
    """Rebuilds tensors and plain containers, and calls nothing else.

    Checkpoints of mmengine and of Vim hold loggers and arguments, too.
    """

    def find_class(self, module: str, name: str) -> object:
        """Resolve what tensors are made of; stand-ins for the rest."""
        if module.startswith('torch') and (
            name.startswith('_rebuild') or name.endswith('Storage')
        ):
            return super().find_class(module, name)
        if (module, name) in {
            ('collections', 'OrderedDict'),
            ('torch', 'Size'),
            ('torch', 'device'),
        }:
            return super().find_class(module, name)
        return _Skipped


class _Skipped:
    """Stand-in for an object of a checkpoint that is no weight."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> '_Skipped':
        return self

    def __setstate__(self, _: object) -> None:
        pass

    def __setitem__(self, *_: object) -> None:
        pass

    def append(self, _: object) -> None:
        """Swallow the items of a skipped list."""

    def extend(self, _: object) -> None:
        """Swallow the items of a skipped list."""


def _load_tensors(file: object, **options: object) -> object:
    return _TensorUnpickler(file, **options).load()


def _load_file(path: Path) -> object:
    """Read a checkpoint without running any code of its pickle."""
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as err:  # what is no checkpoint may raise anything
        if 'Unsupported' not in str(err):
            raise _unreadable(path) from err
    try:
        return torch.load(
            path,
            map_location='cpu',
            pickle_module=SimpleNamespace(
                Unpickler=_TensorUnpickler,
                load=_load_tensors,
                __name__='pickle',
            ),
            weights_only=False,
        )
    except Exception as err:
        raise _unreadable(path) from err


def _unreadable(path: Path) -> CheckpointError:
    size = path.stat().st_size
    return CheckpointError(
        f'{path} ({size} bytes) is truncated or not a PyTorch checkpoint; '
        'download or save it again'
    )

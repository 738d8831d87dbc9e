"""Weights read from files without running code, and loaded without rest."""

import argparse
import pickle
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

from .download import local_file
from .missing import missing

StateDict = dict[str, Tensor]

# where weights lie in the checkpoints of the official Vim and of mmengine
WRAPPERS = ('model', 'state_dict')
MMENGINE_WRAPPERS = ('state_dict',)
# 'model': what a checkpoint has for the model's weights, of either kind;
# 'ema': averages over the training; 'raw': what these are averages of
CHOICES = ('model', 'ema', 'raw')
_numpy_core = getattr(np, '_core', None) or np.core


def _statistic(owner: type, name: str) -> object:
    """Stand-in for ``getattr``, by which HistoryBuffer names its methods."""
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'Unsupported class attribute {name}')


# what else these hold: logs, random states, arguments; all of it only data
SAFE_GLOBALS = [
    HistoryBuffer,
    (_statistic, 'builtins.getattr'),
    argparse.Namespace,
    bytes,  # of arrays without elements
    np.ndarray,
    np.dtype,
    *(
        (function, f'{module}.multiarray.{function.__name__}')
        for function in (
            _numpy_core.multiarray._reconstruct,
            _numpy_core.multiarray.scalar,
        )
        for module in ('numpy.core', 'numpy._core')
    ),
    *{
        type(np.dtype(name))
        for name in ('bool', 'float16', 'float32', 'float64')
        + ('int8', 'int16', 'int32', 'int64')
        + ('uint8', 'uint16', 'uint32', 'uint64')
    },
]


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
        dropped: Keys of the checkpoint that are of another number of classes
            or levels.
        resized: Position embeddings that were resampled, with both grids.
        expected: Those of the last two that are no cause for concern.
    """

    used: list[str] = field(default_factory=list)
    derived: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
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
        for name in REPORTED:
            keys = getattr(self, name)
            if not keys and name in ('dropped', 'resized'):
                continue
            lines.append(f'{name}: {len(keys)}')
            for key in keys:
                note = ' (expected)' if key in self.expected else ''
                lines.append(f'  {key}{note}')
        return '\n'.join(lines)


REPORTED = ('used', 'derived', 'resized', 'dropped', 'missing', 'unexpected')


def read_state_dict(
    path: str | Path,
    wrappers: tuple[str, ...] = WRAPPERS,
    weights: str = 'model',
) -> StateDict:
    """Read the weights of a checkpoint, whatever they are wrapped in.

    Args:
        path: File with a state dict, bare or wrapped, or an address, see
            :func:`local_file`.
        wrappers: Keys that the state dict may lie under.
        weights: 'model' for what the checkpoint has for the model's weights,
            'ema' for averages over the training, 'raw' for what these are
            averages of. The official Vim keeps averages as ``model_ema``
            beside the raw ``model``. mmengine's EMAHook exchanges them: its
            ``state_dict`` has the averages, ``ema_state_dict`` the raw ones.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is truncated, no checkpoint, or holds
            anything else than data, or no averages.
        ValueError: ``weights`` is unknown.
        OSError: an address cannot be fetched.
    """
    source = path
    if weights not in CHOICES:
        raise ValueError(f'weights must be one of {CHOICES}, got {weights!r}')
    path = local_file(path)
    if not path.is_file():
        raise missing('checkpoint', path)
    checkpoint = _load_file(path, source)
    if weights != 'model' and isinstance(checkpoint, dict):
        checkpoint = _averaged_or_raw(checkpoint, weights, path)
    for wrapper in wrappers:
        if isinstance(checkpoint, dict) and wrapper in checkpoint:
            checkpoint = checkpoint[wrapper]
    if (
        not isinstance(checkpoint, dict)
        or not checkpoint
        or not all(isinstance(v, Tensor) for v in checkpoint.values())
    ):
        places = ' or '.join(map(repr, wrappers))
        raise CheckpointError(
            f'{path} is not a checkpoint: expected a state dict, bare or '
            f'under {places}, got {type(checkpoint).__name__}'
        )
    return {k.removeprefix('module.'): v for k, v in checkpoint.items()}


def _averaged_or_raw(checkpoint: dict, weights: str, path: Path) -> dict:
    """What holds these weights of a checkpoint."""
    exchanged = {'state_dict', 'ema_state_dict'} <= checkpoint.keys()
    if weights == 'raw':
        if not exchanged:
            return checkpoint
        raw = checkpoint['ema_state_dict'].items()
        # beside them it counts its steps
        return {k: v for k, v in raw if k.startswith('module.')}
    if exchanged:
        return checkpoint['state_dict']
    if 'model_ema' in checkpoint:
        return checkpoint['model_ema']
    raise CheckpointError(
        f'{path} has no averaged weights: neither model_ema nor state_dict '
        f'with ema_state_dict is among {list(checkpoint)[:8]}; leave out '
        "weights='ema'"
    )


def load_data(file: Path | BinaryIO) -> object:
    """Read what ``torch.save`` wrote, if it is tensors and plain data alone.

    Args:
        file: The file; whatever it holds, no code of it runs.
    """
    with torch.serialization.safe_globals(SAFE_GLOBALS):
        return torch.load(file, map_location='cpu', weights_only=True)


def _load_file(path: Path, source: str | Path) -> object:
    try:
        return load_data(path)
    except Exception as err:  # what is no checkpoint may raise anything
        if found := MORE_THAN_DATA.search(str(err)):
            raise CheckpointError(
                f'{path} holds more than data, and reading it could run '
                f'code: {found[0]}; save its state dict alone'
            ) from err
        size, fix = path.stat().st_size, 'download or save it again'
        if '://' in str(source):  # else it would be taken again
            fix = f'delete it, and check that {source} is a file of weights'
        raise CheckpointError(
            f'{path} ({size} bytes) is truncated or not a PyTorch '
            f'checkpoint; {fix}'
        ) from err


# how torch refuses a pickle, which it cannot even read in other cases
MORE_THAN_DATA = re.compile(
    r'Unsupported (global|class)[^.]*[\w.]+|unsupported GLOBAL.*blocked'
    r'|call reduce for \D+ function.*|Can only (create|build).*'
    r'|TorchScript archives|(persistent_load|persistent id) .*'
)


def load_weights(model: nn.Module, path: str, config: str) -> None:
    """Load all weights of a model.

    Args:
        model: Model to load into.
        path: Checkpoint.
        config: Whose model it is, for the error.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is truncated, no checkpoint, or of another model.
    """
    state = read_state_dict(path)
    check_weights(state, model, path, config)
    model.load_state_dict(state)


def check_weights(
    state: StateDict, model: nn.Module, path: str, config: str
) -> None:
    """Refuse weights that are not just those of a model.

    mmengine loads those that fit and only warns of the others.

    Args:
        state: Weights.
        model: Model to load them into.
        path: File that they come from, for the error.
        config: Whose model it is, for the error.

    Raises:
        CheckpointError: they are of another model.
    """
    problems = _differences(state, model.state_dict())
    if problems:
        raise CheckpointError(
            f'{path} is not of the model of {config}, '
            f'{len(problems)} weights differ: {"; ".join(problems[:4])}; '
            'check config and checkpoint'
        )


def _differences(given: StateDict, wanted: StateDict) -> list[str]:
    """What keeps one state dict from being loaded in place of another."""
    shared = wanted.keys() & given.keys()
    lines = [f'missing {k}' for k in wanted.keys() - shared]
    lines += [f'unexpected {k}' for k in given.keys() - shared]
    lines += [
        f'{k} is {tuple(given[k].shape)}, not {tuple(wanted[k].shape)}'
        for k in shared
        if given[k].shape != wanted[k].shape
    ]
    return sorted(lines)

"""Answers kept on disk, by what the image and its ground truth are."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import fileio
from mmengine.config import Config
from mmengine.logging import MMLogger
from torch.utils.data import Dataset

from mmscope.version import __version__

from .answers import ImageAnswers
from .plain_data import load_plain, save_plain


class AnswerCache:
    """Answers on disk, one file for each image, so that a run can go on.

    Answers are found again by the image, not by its place in the dataset:
    see :func:`image_digest`. What holds more than plain data, as entries of a
    metric of your own may, is not kept.

    Args:
        folder: Folder of the files; None keeps nothing.
        kind: Dataclass of the answers to an image.
    """

    def __init__(self, folder: Path | None, kind: type = ImageAnswers) -> None:
        self.folder, self.kind = folder, kind
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def of_run(
        cls,
        out_dir: Path,
        cfg: Config,
        checkpoint: str,
        device: str = 'cpu',
        kind: type = ImageAnswers,
    ) -> 'AnswerCache':
        """The cache of a model and how it is tested, below ``out_dir``.

        Another checkpoint, model, test pipeline, metric, batch size or device
        gets another folder, and so does a file that they name, such as
        annotations, when its content changes.

        Args:
            out_dir: Folder of the run.
            cfg: Complete config.
            checkpoint: File of the weights.
            device: Name of the device, on which times depend.
            kind: Dataclass of the answers to an image.
        """
        settings = cfg.to_dict()
        for chosen in ('eta', 'tau'):
            settings['model']['backbone'].pop(chosen, None)
        loader = settings['test_dataloader']
        loader['dataset'].pop('indices', None)
        said = (
            *(settings['model'], loader['dataset'], loader.get('batch_size')),
            *(settings['test_evaluator'], device, __version__, kind.__name__),
        )
        digest = hashlib.sha256(repr(said).encode())
        for path in (checkpoint, *files_named_in(said)):
            digest.update(_file_digest(path))
        return cls(out_dir / f'answers-{digest.hexdigest()[:12]}', kind)

    def keys(
        self, dataset: Dataset, indices: Sequence[int]
    ) -> dict[int, str | None]:
        """Names of the answers to some images of a dataset, by index."""
        if self.folder is None:
            return dict.fromkeys(indices)
        return {index: image_digest(dataset, index) for index in indices}

    def load(self, key: str | None) -> Any:
        """The answers by a name, if they are there and can be read."""
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            return self.kind(**load_plain(path))
        except (ValueError, TypeError) as err:
            _logger().warning('%s; its image is answered again', err)
            return None

    def save(self, key: str | None, answers: Any) -> None:
        """Keep answers; an interrupted write leaves nothing behind."""
        path = self._path(key)
        if path is None:
            return
        part = path.with_suffix('.part')
        try:
            names = [one.name for one in fields(self.kind)]
            save_plain({name: getattr(answers, name) for name in names}, part)
        except TypeError as err:
            _logger().warning('answers are not kept: %s', err)
            self.folder = None
            return
        os.replace(part, path)

    def _path(self, key: str | None) -> Path | None:
        if self.folder is None or key is None:
            return None
        return self.folder / f'{key}.pth'


def image_digest(dataset: Dataset, index: int) -> str | None:
    """Name an image by what the dataset says of it and by its files' content.

    The same image has the same name wherever it stands in the dataset; it
    gets another when its file or its ground truth changes.

    Args:
        dataset: Dataset of mmengine, or a wrapper of one.
        index: Place of the image.

    Returns:
        Hexadecimal digits, or None where the dataset does not say what it
        loads.
    """
    if not hasattr(dataset, 'get_data_info'):
        return None
    info = dict(dataset.get_data_info(index))
    info.pop('sample_idx', None)  # where it stands
    try:
        said = json.dumps(info, default=_array_digest)
    except TypeError:
        return None
    digest = hashlib.sha256(said.encode())
    for name, path in sorted(info.items()):
        if name.endswith('_path') and isinstance(path, str) and path:
            digest.update(_file_digest(path, _backend_args(dataset)))
    return digest.hexdigest()[:32]


def files_named_in(tree: Any) -> Iterator[str]:
    """The strings in a config that are paths of files."""
    if isinstance(tree, str) and os.path.isfile(tree):
        yield tree
    elif isinstance(tree, Mapping):
        yield from files_named_in(list(tree.values()))
    elif isinstance(tree, list | tuple):
        for one in tree:
            yield from files_named_in(one)


def _backend_args(dataset: Dataset) -> dict | None:
    """How a dataset, or the first one in a wrapper, reads its files."""
    while not hasattr(dataset, 'backend_args'):
        inner = getattr(dataset, 'datasets', [getattr(dataset, 'dataset', 0)])
        if not inner[0]:
            return None
        dataset = inner[0]
    return dataset.backend_args


def _array_digest(value: object) -> tuple:
    """What json takes in place of an array."""
    if isinstance(value, bytes | torch.Tensor):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.hasobject:
        raise TypeError(f'{type(value).__name__} is no plain data')
    content = hashlib.sha256(value.tobytes()).hexdigest()
    return str(value.dtype), value.shape, content


def _file_digest(path: str, backend_args: dict | None = None) -> bytes:
    try:
        return hashlib.sha256(fileio.get(path, backend_args)).digest()
    except FileNotFoundError:  # whoever loads it will say so
        return b'missing'


def _logger() -> MMLogger:
    return MMLogger.get_current_instance()

"""Serves exported graphs: exits at once, refinement in full batches."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .engines import Arrays, open_graph
from .record import ExportRecord


class ServedAnswer(NamedTuple):
    """The answer to one image.

    Attributes:
        key: Number of the image, counted from 0 over all requests.
        value: Label of each pixel (h, w), or logits of the classes (K,).
        exited: Whether it is the coarse pass's.
        confidence: Confidence of the coarse answer.
    """

    key: int
    value: np.ndarray
    exited: bool
    confidence: float


class OnnxScope:
    """Answers images by the graphs of :func:`export_onnx`.

    Each request takes the coarse pass at once. Images that exit are answered
    then; the others wait until there is a full batch of them, from whatever
    requests, or until :meth:`flush`. It is no queue between threads: give
    each thread one of its own, or lock it.

    Args:
        folder: Folder with coarse.onnx, fine.onnx and export.json.
        eta: Confidence from which an image exits; by default the record's.
        batch_size: Images that are refined at once.
        threads: Threads of the engine; by default one for each core.
        engine: What runs the graphs, 'onnxruntime' or 'openvino'.

    Raises:
        FileNotFoundError: a file is missing.
        RuntimeError: the engine is not installed.
        ValueError: ``eta`` or ``batch_size`` is out of range, or ``engine``
            is unknown.

    Examples:
        >>> scope = OnnxScope('work_dirs/export')
        >>> answers = scope.submit(scope.prepare(images))
        >>> answers += scope.flush()
    """

    def __init__(
        self,
        folder: str | Path,
        eta: float | None = None,
        batch_size: int = 8,
        threads: int = 0,
        engine: str = 'onnxruntime',
    ) -> None:
        if batch_size < 1:
            raise ValueError(f'batch_size must be positive, got {batch_size}')
        folder = Path(folder)
        self.record = ExportRecord.load(folder)
        self.eta = self.record.eta if eta is None else eta
        if not 0 <= self.eta <= 1:
            raise ValueError(f'eta must be in [0, 1], got {self.eta}')
        self.batch_size = batch_size
        names = ['coarse', 'fine']
        names += ['decode'] if self.record.decode_reads else []
        self._graphs = {
            name: open_graph(folder / f'{name}.onnx', engine, threads)
            for name in names
        }
        self._waiting: deque[tuple[int, float, Arrays]] = deque()
        self._count = 0

    @property
    def num_waiting(self) -> int:
        """Number of images that wait to be refined."""
        return len(self._waiting)

    def prepare(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Normalise images as the model's data preprocessor does.

        Args:
            images: (h, w, 3) each, uint8, in the channel order that the
                model was trained to be given, BGR for OpenMMLab's.

        Returns:
            (B, 3, h, w) in float32.

        Raises:
            ValueError: an image is of another size.
        """
        record = self.record
        shape = (*record.image_size, 3)
        for image in images:
            if image.shape != shape:
                raise ValueError(
                    f'the graphs take images of shape {shape}, got '
                    f'{image.shape}: resize it, or export another --size'
                )
        pixels = np.stack(images)
        if record.bgr_to_rgb:
            pixels = pixels[..., ::-1]
        mean, std = np.float32(record.mean), np.float32(record.std)
        pixels = (pixels.astype(np.float32) - mean) / std
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))

    def submit(self, images: np.ndarray) -> list[ServedAnswer]:
        """Take the coarse pass, and the fine one as batches get full.

        Args:
            images: Normalised images, (B, 3, h, w), of :meth:`prepare`.

        Returns:
            The answers that are known now, to images of this and of earlier
            requests.
        """
        record, answer = self.record, self.record.answer
        handed = dict.fromkeys([*record.fine_reads, *record.decode_reads])
        names = ['confidence', *handed]
        names += [] if record.decode_reads else [answer]
        found = self._graphs['coarse'](names, dict(image=images))
        confidence = found['confidence']
        exited = exits(confidence, self.eta)
        keys = range(self._count, self._count + len(images))
        self._count += len(images)
        easy = np.flatnonzero(exited)
        values = self._coarse_values(found, easy)
        answers = [
            ServedAnswer(keys[row], value, True, float(confidence[row]))
            for row, value in zip(easy, values, strict=True)
        ]
        for row in np.flatnonzero(~exited):
            parts = {name: found[name][row] for name in record.fine_reads}
            parts['image'] = images[row]
            self._waiting.append((keys[row], float(confidence[row]), parts))
        while len(self._waiting) >= self.batch_size:
            answers += self._refine(self.batch_size)
        return answers

    def flush(self) -> list[ServedAnswer]:
        """Refine the images that wait, though they fill no batch.

        Returns:
            Their answers.
        """
        return self._refine(len(self._waiting))

    def __call__(self, images: np.ndarray) -> list[ServedAnswer]:
        """Answer images at once, in order; others that wait stay apart.

        Args:
            images: Normalised images, (B, 3, h, w).
        """
        others, self._waiting = self._waiting, deque()
        try:
            answers = self.submit(images) + self.flush()
        finally:
            self._waiting = others
        return sorted(answers, key=lambda one: one.key)

    def _coarse_values(self, found: Arrays, easy: np.ndarray) -> np.ndarray:
        """Answers to the rows that exit, by outputs of the coarse graph."""
        record = self.record
        if not record.decode_reads:
            return found[record.answer][easy]
        if not len(easy):
            return easy
        maps = {name: found[name][easy] for name in record.decode_reads}
        return self._graphs['decode']([record.answer], maps)[record.answer]

    def _refine(self, number: int) -> list[ServedAnswer]:
        """Answer the first images that wait, in one batch."""
        batch = [self._waiting.popleft() for _ in range(number)]
        if not batch:
            return []
        parts = [one for *_, one in batch]
        inputs = {
            name: np.stack([one[name] for one in parts]) for name in parts[0]
        }
        answer = self.record.answer
        values = self._graphs['fine']([answer], inputs)[answer]
        return [
            ServedAnswer(key, value, False, confidence)
            for (key, confidence, _), value in zip(batch, values, strict=True)
        ]


def exits(confidence: np.ndarray, eta: float) -> np.ndarray:
    """Which images exit: :func:`mmscope.functional.should_exit` in numpy.

    Args:
        confidence: (B,).
        eta: Threshold in [0, 1].

    Returns:
        (B,) bool.
    """
    if eta <= 0:
        return np.ones_like(confidence, dtype=bool)
    if eta >= 1:
        return np.zeros_like(confidence, dtype=bool)
    return (confidence >= np.float32(eta)) & np.isfinite(confidence)

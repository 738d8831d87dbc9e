"""Both answers to every image of a dataset, kept on disk while collected."""

import functools
import hashlib
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from rich.progress import Progress
from torch import nn
from torch.utils.data import DataLoader, Subset

from mmscope.datasets.subset import spread
from mmscope.evaluation.task_metric import Entry, TaskMetric
from mmscope.models import exit_settings, has_exits, image_key
from mmscope.utils.flops import model_flops
from mmscope.utils.structures import canvas_of

Cost = Callable[[tuple[int, int]], tuple[float, float]]
OWN_POLICY = 'model'


@dataclass(frozen=True)
class ImageAnswers:
    """The coarse and the fine answer to one image.

    Attributes:
        name: Its file.
        confidence: Of the coarse answer, by each policy.
        entries: What the metric keeps of the coarse and the fine answer.
        quality: Of both answers, see :meth:`TaskMetric.quality`.
        gflops: Of both paths; NaN where not counted.
        seconds: Of both paths, the fine one's with the coarse pass.
    """

    name: str
    confidence: dict[str, float]
    entries: tuple[Entry, Entry]
    quality: tuple[float, float]
    gflops: tuple[float, float]
    seconds: tuple[float, float]


@dataclass(frozen=True)
class ExitAnswers:
    """Both answers to N images.

    Attributes:
        names: Files.
        confidence: Of the coarse answers, (N,).
        coarse: What the metric keeps of the coarse answers, N.
        fine: The same of the fine ones.
        quality: Of the coarse and the fine answer to each, (N, 2), percent.
        gflops: Of both paths, (N, 2).
        seconds: Of both paths, (N, 2).
    """

    names: list[str]
    confidence: np.ndarray
    coarse: list[Entry]
    fine: list[Entry]
    quality: np.ndarray
    gflops: np.ndarray
    seconds: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def chosen(self, exited: np.ndarray) -> list[Entry]:
        """The answers if these images, (N,) bool, keep the coarse one."""
        return [
            easy if out else hard
            for out, easy, hard in zip(
                exited, self.coarse, self.fine, strict=True
            )
        ]

    def rows(self, index: np.ndarray) -> 'ExitAnswers':
        """Take some images, or the same ones repeatedly."""
        return ExitAnswers(
            [self.names[i] for i in index],
            self.confidence[index],
            [self.coarse[i] for i in index],
            [self.fine[i] for i in index],
            self.quality[index],
            self.gflops[index],
            self.seconds[index],
        )

    def judged_by(self, confidence: np.ndarray) -> 'ExitAnswers':
        """The same answers under other confidences, (N,)."""
        return replace(self, confidence=confidence)

    def spread(self, count: int) -> list[int]:
        """Choose up to ``count`` images, from the surest to the least sure."""
        order = np.argsort(-self.confidence, kind='stable')
        return order[spread(len(self), count)].tolist()

    def losses(self) -> dict[str, float]:
        """Each file's :attr:`loss`, as :class:`OracleExit` takes it."""
        names = [image_key(name) for name in self.names]
        return dict(zip(names, self.loss.tolist(), strict=True))

    @property
    def loss(self) -> np.ndarray:
        """Quality that the coarse answer lacks, (N,), percent."""
        return self.quality[:, 1] - self.quality[:, 0]


class AnswerCache:
    """Answers on disk, one file for each image, so that a run can go on.

    Args:
        folder: Where they are; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def of_run(
        cls, out_dir: Path, cfg: Config, checkpoint: str
    ) -> 'AnswerCache':
        """The cache of one model and its test dataset, below ``out_dir``.

        Another checkpoint, model or dataset gets another folder.
        """
        model = cfg.model.to_dict()
        model['backbone'].pop('eta', None)
        dataset = cfg.test_dataloader.dataset.to_dict()
        text = repr((model, dataset, cfg.test_evaluator))
        digest = hashlib.sha256(text.encode())
        digest.update(Path(checkpoint).read_bytes())
        return cls(out_dir / f'answers-{digest.hexdigest()[:12]}')

    def load(self, index: int) -> ImageAnswers | None:
        """The answers to image number ``index``, if they are there."""
        path = self._path(index)
        if path is None or not path.is_file():
            return None
        with path.open('rb') as file:
            return pickle.load(file)

    def save(self, index: int, answers: ImageAnswers) -> None:
        """Keep answers; an interrupted write leaves nothing behind."""
        path = self._path(index)
        if path is None:
            return
        part = path.with_suffix('.part')
        part.write_bytes(pickle.dumps(answers))
        os.replace(part, path)

    def _path(self, index: int) -> Path | None:
        return (
            None if self.folder is None else self.folder / f'{index:06d}.pkl'
        )


def count_gflops(model: nn.Module) -> Cost:
    """Count the GFLOPs of an exited and of a refined image of each size.

    Args:
        model: A model of mmscope; :func:`model_flops` says what is counted.
    """

    @functools.cache
    def count(size: tuple[int, int]) -> tuple[float, float]:
        flops = model_flops(model, size)
        return flops.exited.total() / 1e9, flops.refined.total() / 1e9

    return count


@torch.no_grad()
def collect_answers(
    model: nn.Module,
    loader: DataLoader,
    metric: TaskMetric,
    cache: AnswerCache | None = None,
    policies: Mapping[str, nn.Module] | None = None,
    cost: Cost | None = None,
) -> dict[str, ExitAnswers]:
    """Answer every image at eta = 0 and at eta = 1.

    Args:
        model: A model of mmscope with an exit head.
        loader: Of images with ground truth.
        metric: Judge of the answers.
        cache: Answers that are there already, and place for the others.
        policies: More exit policies whose confidences are wanted.
        cost: GFLOPs of both paths by image size (H, W).

    Returns:
        The answers under the model's own confidence, by the name 'model',
        and under that of each policy.

    Raises:
        ValueError: the model has no exit head, or the loader is empty.
    """
    check_exits(model)
    if len(loader.dataset) == 0:
        raise ValueError('the dataset is empty; check its folders')
    cache = cache or AnswerCache(None)
    compared = dict(policies or {})
    names = {OWN_POLICY, *compared}
    model.eval()
    found = {i: cache.load(i) for i in range(len(loader.dataset))}
    rest = [
        i
        for i, one in found.items()
        if one is None or not names <= one.confidence.keys()
    ]
    with Progress() as progress:
        task = progress.add_task(
            'Both answers', total=len(found), completed=len(found) - len(rest)
        )
        for index, answers in _answer(
            model, loader, rest, metric, compared, cost
        ):
            cache.save(index, answers)
            found[index] = answers
            progress.advance(task)
    images = [found[i] for i in range(len(found))]
    return {name: _gather(images, name) for name in (OWN_POLICY, *compared)}


@torch.no_grad()
def measure_fps(model: nn.Module, loader: DataLoader, eta: float) -> float:
    """Images per second of real inference, without loading the images.

    Args:
        model: A model of mmscope.
        loader: Of images; the first batch only warms up, if there are more.
        eta: Threshold.
    """
    model.eval()
    counts, times = [], []
    for batch in loader:
        samples, seconds = _predict(model, batch, eta)
        counts.append(len(samples))
        times.append(seconds)
    first = 1 if len(times) > 1 else 0
    return sum(counts[first:]) / sum(times[first:])


def check_exits(model: nn.Module) -> None:
    """Refuse models that have no early exit.

    Raises:
        ValueError: the backbone has no exit head.
    """
    if not has_exits(model):
        raise ValueError(
            'the model has no exit head, so that there is no eta to choose; '
            "use one whose backbone is a 'mmscope.MambaScopeBackbone' with "
            'exit_head set'
        )


def _answer(
    model: nn.Module,
    loader: DataLoader,
    indices: list[int],
    metric: TaskMetric,
    compared: Mapping[str, nn.Module],
    cost: Cost | None,
) -> Iterator[tuple[int, ImageAnswers]]:
    rest = DataLoader(
        Subset(loader.dataset, indices),
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
    )
    order = iter(indices)
    for batch in rest:
        easy, easy_time = _predict(model, batch, 0.0, compared)
        hard, hard_time = _predict(model, batch, 1.0)
        confidences = [
            {OWN_POLICY: s.exit_confidence, **s.get('exit_confidences', {})}
            for s in easy
        ]
        entries = metric.entries(easy), metric.entries(hard)
        for i, sample in enumerate(easy):
            both = entries[0][i], entries[1][i]
            yield (
                next(order),
                ImageAnswers(
                    name=sample.metainfo.get('img_path', ''),
                    confidence=confidences[i],
                    entries=both,
                    quality=tuple(map(metric.quality, both)),
                    gflops=(np.nan, np.nan)
                    if cost is None
                    else cost(canvas_of(sample)),
                    seconds=(easy_time / len(easy), hard_time / len(easy)),
                ),
            )


def _predict(
    model: nn.Module,
    batch: dict,
    eta: float,
    compared: Mapping[str, nn.Module] | None = None,
) -> tuple[list[BaseDataElement], float]:
    """Predictions at one threshold, and their time in seconds."""
    # a prediction writes to its samples
    samples = [sample.clone() for sample in batch['data_samples']]
    with exit_settings(model, eta=eta, compared=compared):
        start = time.perf_counter()
        predictions = model.test_step(dict(batch, data_samples=samples))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return predictions, time.perf_counter() - start


def _gather(images: list[ImageAnswers], policy: str) -> ExitAnswers:
    return ExitAnswers(
        names=[one.name for one in images],
        confidence=np.array([one.confidence[policy] for one in images]),
        coarse=[one.entries[0] for one in images],
        fine=[one.entries[1] for one in images],
        quality=np.array([one.quality for one in images]),
        gflops=np.array([one.gflops for one in images]),
        seconds=np.array([one.seconds for one in images]),
    )

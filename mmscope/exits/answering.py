"""Running a model over images, with what is kept and how long it takes."""

import time
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import TypeVar

import torch
from mmengine.dist import (
    all_gather_object,
    broadcast_object_list,
    get_rank,
    get_world_size,
)
from mmengine.structures import BaseDataElement
from rich.progress import Progress
from torch import nn
from torch.utils.data import DataLoader, Subset

from mmscope.models import exit_settings

from .answers import ImageAnswers
from .cache import AnswerCache
from .elastic import ElasticImage

Answers = TypeVar('Answers', ImageAnswers, ElasticImage)


def answer_images(
    loader: DataLoader,
    cache: AnswerCache,
    answer: Callable[[dict], Iterator[Answers]],
    indices: Sequence[int] | None = None,
    is_enough: Callable[[Answers], bool] = lambda one: True,
    merge: Callable[[Answers | None, Answers], Answers] = lambda _, new: new,
    title: str = 'Answers',
) -> list[Answers]:
    """Answer images, but for those whose answers are kept.

    Several processes share the batches, and each gets all answers. Batches
    are those of a single process, so that the answers are, too.

    Args:
        loader: Batches of images.
        cache: Answers that are there already, and place for the others.
        answer: Function from a batch to the answers to its images, in order.
        indices: Places of the images in the dataset; by default all.
        is_enough: Whether answers that are kept say what is asked.
        merge: Function of answers that did not, or None, and new ones.
        title: Title of the progress bar.

    Returns:
        Answers to each of the images.

    Raises:
        ValueError: the dataset is empty.
    """
    if len(loader.dataset) == 0:
        raise ValueError('the dataset is empty; check its folders')
    indices = range(len(loader.dataset)) if indices is None else indices
    keys = cache.keys(loader.dataset, indices)
    # files may appear while another process looks: one looks for all
    found = _agreed({i: cache.load(key) for i, key in keys.items()})
    rest = [
        index
        for index, one in found.items()
        if one is None or not is_enough(one)
    ]
    mine = _share_of_batches(rest, loader.batch_size)
    batches = DataLoader(
        Subset(loader.dataset, mine),
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
    )
    new = (one for batch in batches for one in answer(batch))
    with Progress(disable=get_rank() != 0) as progress:
        total = len(found) - len(rest) + len(mine)
        task = progress.add_task(
            title, total=total, completed=len(found) - len(rest)
        )
        for index, answers in zip(mine, new, strict=True):
            found[index] = merge(found[index], answers)
            cache.save(keys[index], found[index])
            progress.advance(task)
    for part in all_gather_object({index: found[index] for index in mine}):
        found.update(part)
    return [found[index] for index in indices]


def _agreed(own: dict) -> dict:
    """What the first process has, in all of them."""
    box = [own]
    broadcast_object_list(box)
    return box[0]


def _share_of_batches(indices: list[int], size: int) -> list[int]:
    """This process's images: whole batches, dealt out in turn."""
    starts = range(get_rank() * size, len(indices), get_world_size() * size)
    return [index for at in starts for index in indices[at : at + size]]


@torch.no_grad()
def measure_fps(
    model: nn.Module,
    loader: DataLoader,
    eta: float,
    tau: float | None = None,
) -> float:
    """Images per second of real inference, without loading the images.

    Args:
        model: A model of mmscope.
        loader: Batches of images; the first only warms up, if there are more.
        eta: Threshold of the confidence.
        tau: Threshold of the cells' scores; None refines the largest share.
    """
    model.eval()
    counts, times = [], []
    for batch in loader:
        samples, seconds = predict_timed(model, batch, eta, tau)
        counts.append(len(samples))
        times.append(seconds)
    first = 1 if len(times) > 1 else 0
    return sum(counts[first:]) / sum(times[first:])


def device_name(model: nn.Module) -> str:
    """Name of the device that a model is on."""
    device = next(model.parameters()).device
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return device.type


def item_of(batch: dict, index: int) -> dict:
    """One image of a batch, as a batch."""
    return {key: [values[index]] for key, values in batch.items()}


def predict_timed(
    model: nn.Module,
    batch: dict,
    eta: float | None = None,
    tau: float | None = None,
) -> tuple[list[BaseDataElement], float]:
    """Predictions at some thresholds, and their time in seconds.

    Args:
        model: A model of mmscope.
        batch: What the loader gave.
        eta: Threshold of the confidence; by default the model's own.
        tau: Threshold of the cells' scores; None refines the largest share.
    """
    # a prediction writes to its samples
    samples = [sample.clone() for sample in batch['data_samples']]
    device = next(model.parameters()).device
    with exit_settings(model, eta=eta, tau=-inf if tau is None else tau):
        start = _clock(device)
        predictions = model.test_step(dict(batch, data_samples=samples))
        return predictions, _clock(device) - start


def _clock(device: torch.device) -> float:
    """Seconds, when the device has done what it was given."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()

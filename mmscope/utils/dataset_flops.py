"""What the images of a dataset cost in the mean."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import nn

from .flops import MASKS, PROPOSALS, Size, model_flops, padded
from .windows import slides, windows_of


@dataclass(frozen=True)
class DatasetFlops:
    """Mean over the images of a dataset.

    Attributes:
        mean: By component.
        exit_rate: Share of images that exited, or of their windows.
        mean_share: Mean of the shares of cells that were refined, 0 where an
            image exited; None where predictions do not say it.
        images: How many there were.
        windows: How many were run for them, one each unless they slide.
        shapes: Padded sizes, and how many images had each.
    """

    mean: Counter
    exit_rate: float
    mean_share: float | None
    images: int
    windows: int
    shapes: dict[str, int]


@torch.no_grad()
def dataset_flops(
    model: BaseModel,
    loader: Iterable[dict],
    convention: str = 'two_direction',
    proposals: int = PROPOSALS,
    masks: int = MASKS,
) -> DatasetFlops:
    """Run a model over a dataset and average what its images cost.

    Args:
        model: With weights whose exits mean something.
        loader: Batches for ``model.test_step``.
        convention: One of ``CONVENTIONS``.
        proposals: See :func:`model_flops`.
        masks: See :func:`model_flops`.

    Raises:
        ValueError: the loader is empty, or windows slide over images and get
            shares of their own.
    """
    ladder = getattr(model.backbone, 'shares', ())
    if slides(model) and len(ladder) > 1:
        raise ValueError(
            'the mean over a dataset needs one share of cells, or '
            f"test_cfg.mode='whole', got alpha={ladder} and 'slide', where "
            'predictions do not say what each window got'
        )
    model.eval()
    exits, given = 0.0, []
    shapes, shares = Counter(), defaultdict(list)
    for batch in loader:
        for sample in model.test_step(batch):
            shape, size, each = _paths_taken(model, sample)
            shapes[shape] += 1
            shares[size] += each
            exits += each.count(0.0) / len(each)
            given.append(getattr(sample, 'refined_share', None))
    images = len(given)
    if not images:
        raise ValueError('the dataset is empty; check its folders')
    mean = Counter()
    for size, each in shares.items():
        flops = model_flops(
            model, size, convention, proposals=proposals, masks=masks
        )
        for name, count in flops.mean(each).items():
            mean[name] += count * len(each) / images
    return DatasetFlops(
        mean,
        exit_rate=exits / images,
        mean_share=None if None in given else sum(given) / images,
        images=images,
        windows=sum(map(len, shares.values())),
        shapes={f'{h} x {w}': n for (h, w), n in shapes.items()},
    )


def _paths_taken(
    model: nn.Module, sample: BaseDataElement
) -> tuple[Size, Size, list[float]]:
    """Tell the canvas of a prediction, and what its windows cost.

    Returns:
        Padded size of the image; that of its windows, or of the one that is
        the whole image; and the share of cells that each of them got.
    """
    info, exited = sample.metainfo, float(getattr(sample, 'exited', False))
    canvas = tuple(info.get('pad_shape', info['img_shape'])[:2])
    divisor = getattr(model.backbone, 'size_divisor', 1)
    if not slides(model):
        canvas = padded(canvas, divisor)
        # who does not say it got the largest share
        return canvas, canvas, [getattr(sample, 'refined_share', 1 - exited)]
    seen = windows_of(model, canvas)
    size = tuple(side.stop - side.start for side in seen[0])
    left = round(exited * len(seen))
    # those that are refined get the one share that there is
    each = [0.0] * left + [1.0] * (len(seen) - left)
    return canvas, padded(size, divisor), each

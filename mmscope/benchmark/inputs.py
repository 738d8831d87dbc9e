"""The images that fps_bench shows to a model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmscope.datasets import write_sample_data
from mmscope.datasets.images import find_images
from mmscope.functional import content_mask, valid_cells
from mmscope.utils.flops import MIN_SIDE, Size, padded

from .models import BenchModel

SAMPLE_SIDE = 512
MAX_SAMPLES = 16  # each takes half a second to draw


def check_size(size: Size) -> None:
    """Refuse sizes that no coarse patch fits into.

    Raises:
        ValueError: a side is below 32 pixels.
    """
    if min(size) < MIN_SIDE:
        raise ValueError(
            f'a resolution must be at least {MIN_SIDE} pixels, the side of a '
            f'coarse patch, got {"x".join(map(str, size))}'
        )


def read_images(folder: str | Path | None, number: int) -> list[np.ndarray]:
    """Read RGB images (H, W, 3), by name; sample data without a folder.

    Args:
        folder: Searched with its subfolders.
        number: At most so many; of sample data no more than ``MAX_SAMPLES``.

    Raises:
        FileNotFoundError: the folder is missing or has no images.
        ValueError: an image cannot be read.
    """
    if folder is None:
        return _sample_images(min(number, MAX_SAMPLES))
    return [_read(path) for path in find_images(folder)[:number]]


def _read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f'{path} cannot be read as an image')
    return np.ascontiguousarray(image[..., ::-1])


def _sample_images(number: int) -> list[np.ndarray]:
    with TemporaryDirectory() as folder:
        root = Path(folder) / 'sample'
        side = (SAMPLE_SIDE, SAMPLE_SIDE)
        write_sample_data(root, num_train=1, num_val=number, size=side)
        pictures = sorted((root / 'images' / 'validation').iterdir())
        return [_read(path) for path in pictures]


def fit(image: np.ndarray, size: Size) -> np.ndarray:
    """Scale an image until it covers ``size``, and crop its centre.

    One that has the size is left alone.
    """
    height, width = image.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    if scale != 1:
        scaled = (round(width * scale), round(height * scale))
        image = cv2.resize(image, scaled, interpolation=cv2.INTER_LINEAR)
    top, left = (
        (have - want) // 2
        for have, want in zip(image.shape[:2], size, strict=True)
    )
    return image[top : top + size[0], left : left + size[1]]


def make_batches(
    images: Sequence[np.ndarray],
    bench: BenchModel,
    size: Size,
    batch_size: int,
    number: int,
    device: str,
) -> list[tuple[Tensor, Tensor | None]]:
    """Normalise and pad batches as the model's preprocessor would.

    Args:
        images: RGB; repeated if there are too few.
        bench: Model, whose backbone sets the padding.
        size: (H, W) before padding.
        batch_size: Images of a batch B.
        number: Batches.
        device: Device of the batches.

    Returns:
        Images (B, 3, H', W'), and which coarse cells show some of them,
        (B, H' / 2P, W' / 2P), or None where there is no padding.
    """
    preprocessor = bench.model.data_preprocessor
    endless = itertools.cycle(fit(image, size) for image in images)
    shape = padded(size, bench.divisor)
    batches = []
    for _ in range(number):
        array = np.stack(list(itertools.islice(endless, batch_size)))
        x = torch.from_numpy(array).to(device).permute(0, 3, 1, 2).float()
        mean = getattr(preprocessor, 'mean', None)
        if mean is not None:
            x = (x - mean.to(device)) / preprocessor.std.to(device)
        x = F.pad(x, (0, shape[1] - size[1], 0, shape[0] - size[0]))
        valid = None
        if bench.refines and shape != tuple(size):
            content = content_mask([size] * batch_size, shape, x)
            valid = valid_cells(content, 2 * bench.net.patch_size)
        batches.append((x.contiguous(), valid))
    return batches

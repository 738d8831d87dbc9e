"""A few images of many, evenly spread."""

import numpy as np
from mmengine.dataset import BaseDataset


def spread(total: int, count: int) -> list[int]:
    """Choose up to ``count`` of ``total`` indices, evenly spread."""
    chosen = np.linspace(0, total - 1, min(count, total))
    return chosen.round().astype(int).tolist()


def spread_out(dataset: BaseDataset, num_images: int) -> None:
    """Keep some images of a dataset, evenly spread over it.

    Args:
        dataset: Of mmengine; changed in place.
        num_images: To keep, at most.

    Raises:
        ValueError: ``num_images`` is not positive.
    """
    if num_images < 1:
        raise ValueError(f'num_images must be positive, got {num_images}')
    if num_images < len(dataset):
        dataset.get_subset_(spread(len(dataset), num_images))

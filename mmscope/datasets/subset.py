"""A few images of many, evenly spread."""

import numpy as np


def spread(total: int, count: int) -> list[int]:
    """Choose up to ``count`` of ``total`` indices, evenly spread.

    Raises:
        ValueError: ``count`` is not positive.
    """
    if count < 1:
        raise ValueError(f'at least 1 image must be chosen, got {count}')
    chosen = np.linspace(0, total - 1, min(count, total))
    return chosen.round().astype(int).tolist()

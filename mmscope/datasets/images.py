"""Images in folders, and pixels."""

from pathlib import Path

import numpy as np

from mmscope.utils.missing import missing

from .problems import Problem

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


def find_images(folder: str | Path) -> list[Path]:
    """List the images of a folder and of those in it, sorted.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise missing('folder', folder)
    found = sorted(
        path
        for path in folder.rglob('*')
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    if not found:
        raise FileNotFoundError(
            f'{folder} has no image; allowed are {", ".join(IMAGE_SUFFIXES)}'
        )
    return found


def check_finite(image: np.ndarray, name: str) -> None:
    """Refuse an image with pixels that are NaN or infinite.

    Args:
        image: Array of any shape and type.
        name: Name of the image, for the error.

    Raises:
        ValueError: it has; their number is told.
    """
    if not np.issubdtype(image.dtype, np.floating):
        return
    bad = image.size - int(np.isfinite(image).sum())
    if bad:
        raise ValueError(
            Problem(
                f'{name} has {bad} of {image.size} values that are NaN or '
                'infinite',
                'a model has no answer to these',
                'replace them, for example by np.nan_to_num(image), or '
                'mend what computes them',
            )
        )

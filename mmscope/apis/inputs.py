"""What can be looked at: files, folders, arrays and iterables of these."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from mmscope.datasets.images import check_finite, find_images
from mmscope.utils.missing import missing

ImageInput = str | Path | np.ndarray


def iterate_images(
    inputs: ImageInput | Iterable[ImageInput], name: str = 'inputs'
) -> Iterator[Path | np.ndarray]:
    """Walk through inputs, one image after the other.

    Args:
        inputs: An image file, a folder, an array, or an iterable of these,
            such as a list or a generator; nested ones, too.
        name: Name of the inputs, for errors; images inside get its indices.

    Raises:
        FileNotFoundError: there is no such file, or no image in a folder.
        TypeError: an input is something else.
        ValueError: an array is no image.
    """
    if isinstance(inputs, np.ndarray):
        yield bgr_image(inputs, name)
    elif isinstance(inputs, str | Path):
        path = Path(inputs)
        if path.is_dir():
            yield from find_images(path)
        elif path.is_file():
            yield path
        else:
            raise missing('image', path)
    elif isinstance(inputs, Iterable):
        for index, one in enumerate(inputs):
            yield from iterate_images(one, f'{name}[{index}]')
    else:
        raise TypeError(
            f'{name} must be a path, an array (H, W, 3) or an iterable of '
            f'these, got {type(inputs).__name__}'
        )


def bgr_image(image: np.ndarray, name: str = 'an array') -> np.ndarray:
    """Give an image three channels; the alpha channel is left out.

    Args:
        image: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8, in OpenCV's
            order of channels.
        name: Name of the image, for errors.

    Returns:
        (H, W, 3), uint8.

    Raises:
        ValueError: it is none of these.
    """
    grey = image[..., None] if image.ndim == 2 else image
    if grey.ndim != 3 or grey.shape[2] not in (1, 3, 4) or not grey.size:
        raise ValueError(
            f'{name} must be an image (H, W, 3), or grey (H, W), got shape '
            f'{tuple(image.shape)}'
        )
    if image.dtype != np.uint8:
        check_finite(image, name)
        raise ValueError(
            f'{name} must be uint8 from 0 to 255, got {image.dtype}; '
            'convert it, for example shares by (255 * image).astype(np.uint8)'
        )
    return grey.repeat(3, axis=2) if grey.shape[2] == 1 else grey[..., :3]

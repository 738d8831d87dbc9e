"""Photographs behind the sample data's shapes."""

from functools import cache
from importlib import resources

import cv2
import numpy as np

Array = np.ndarray

# public-domain and CC0 photographs inside scikit-image's own wheel
PHOTOS = (
    'astronaut.png',
    'brick.png',
    'camera.png',
    'chelsea.png',
    'coffee.png',
    'grass.png',
    'gravel.png',
    'hubble_deep_field.jpg',
    'moon.png',
    'rocket.jpg',
)
MAX_BLUR = 12.0


def make_ground(
    rng: np.random.Generator,
    part: tuple[float, float],
    shape: tuple[int, int],
    difficulty: float,
) -> Array:
    """Crop a photograph, blurred and faded the more the easier the picture.

    Args:
        rng: Source of every choice.
        part: Which columns of the photographs to use, as fractions of the
            width, so that splits can share photographs but no pixel.
        shape: Height and width to return.
        difficulty: 0 (almost one colour) to 1 (the photograph as it is).

    Returns:
        RGB picture, (H, W, 3), float32, 0 .. 255.
    """
    photo = _photo(PHOTOS[rng.integers(len(PHOTOS))])
    photo = photo[:, slice(*(int(p * photo.shape[1]) for p in part))]
    # the largest window of the picture's proportions, then zoom in
    largest = min(np.array(photo.shape[:2]) / shape)
    window = np.array(shape) * largest * rng.uniform(0.6, 1.0)
    window = np.maximum(1, window.astype(int))
    top, left = rng.integers(photo.shape[:2] - window, endpoint=True)
    crop = photo[top : top + window[0], left : left + window[1]]
    crop = crop[:, :: rng.choice([1, -1])]
    enlarges = min(window) < min(shape)
    crop = cv2.resize(
        np.ascontiguousarray(crop),
        shape[::-1],
        interpolation=cv2.INTER_CUBIC if enlarges else cv2.INTER_AREA,
    )
    # grey photographs get a tint
    crop = crop * rng.uniform(0.88, 1.12, size=3).astype(np.float32)
    plainness = 1 - difficulty
    if (blur := MAX_BLUR * plainness**2) > 0.3:
        crop = cv2.GaussianBlur(crop, (0, 0), blur)
    mean = crop.mean(axis=(0, 1))
    return np.clip(mean + (1 - 0.75 * plainness) * (crop - mean), 0, 255)


@cache
def _photo(name: str) -> Array:
    """Read one of scikit-image's photographs as RGB, (H, W, 3) float32."""
    try:
        file = resources.files('skimage.data') / name
    except ImportError as err:
        raise RuntimeError(
            'the sample data needs the photographs in scikit-image: '
            'pip install scikit-image'
        ) from err
    if not file.is_file():
        raise RuntimeError(
            f'{name} is missing in the installed scikit-image: reinstall it, '
            "pip install --force-reinstall 'scikit-image>=0.20'"
        )
    encoded = np.frombuffer(file.read_bytes(), dtype=np.uint8)
    photo = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return cv2.cvtColor(photo, cv2.COLOR_BGR2RGB).astype(np.float32)

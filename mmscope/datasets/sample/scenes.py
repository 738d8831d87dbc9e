"""The pictures of the sample data: shapes drawn over real photographs.

One number, the difficulty in [0, 1], goes from one or two large objects on a
plain ground to many small ones on a sharp photograph. A coarse look settles
the former; the latter have objects below the coarse patches' size.
"""

from dataclasses import dataclass

import numpy as np

from .grounds import make_ground
from .shapes import SAMPLE_CLASSES, SHAPES, Look, coverage, paint

Array = np.ndarray

# train backgrounds come from the left of every photo, val ones from the right
SPLITS = {'training': (0.0, 0.6), 'validation': (0.6, 1.0)}
GOLDEN_RATIO = (5**0.5 - 1) / 2
FRAME_EVERY, FRAME_WIDTH = 4, 2
CROWD_DIFFICULTY, CROWD_RATE = 0.55, 0.35
# objects: in pixels, or the part of one that no other object hides
MIN_RADIUS, MIN_PIXELS, MIN_VISIBLE = 3.5, 8, 0.7
ATTEMPTS = 20


@dataclass(frozen=True)
class Scene:
    """One sample picture with its objects.

    Attributes:
        image: RGB picture, (H, W, 3), uint8.
        objects: Number of the object seen at each pixel, counted from 1 in
            the order of painting, 0 for the ground, (H, W), int32.
        classes: Index into SAMPLE_CLASSES of every object, (N,).
        crowds: Whether an object is a crowd of small ones, (N,).
        framed: Whether the picture has a frame, which is unlabelled.
        difficulty: 0 (one large object) to 1 (many small ones).
    """

    image: Array
    objects: Array
    classes: Array
    crowds: Array
    framed: bool
    difficulty: float

    def mask(self) -> Array:
        """Return ADE20K's labels: 0 unlabelled, then classes from 1, (H, W).

        The segmentation datasets' ``reduce_zero_label=True`` turns these
        into 255 (ignored) and indices into SAMPLE_CLASSES.
        """
        labels = np.append(0, self.classes)[self.objects] + 1
        if self.framed:
            labels[frame_of(labels.shape)] = 0
        return labels.astype(np.uint8)


def frame_of(shape: tuple[int, ...]) -> Array:
    """Mark the pixels of a picture's frame, (H, W), bool."""
    frame = np.ones(shape[:2], dtype=bool)
    inner = slice(FRAME_WIDTH, -FRAME_WIDTH)
    frame[inner, inner] = False
    return frame


def make_scene(
    split: str, index: int, size: tuple[int, int], seed: int
) -> Scene:
    """Draw picture number ``index`` of a split.

    The four arguments alone decide it, so a larger set begins with the
    pictures of a smaller one.

    Args:
        split: 'training' or 'validation'.
        index: Number of the picture, from 0.
        size: Smallest and largest side in pixels.
        seed: Seed of the whole set.
    """
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    # multiples of the golden ratio fill [0, 1] evenly, however many there are
    difficulty = (0.5 + index * GOLDEN_RATIO) % 1.0
    height, width = rng.integers(*size, size=2, endpoint=True)
    framed = index % FRAME_EVERY == 0
    easel = _Easel(
        make_ground(rng, SPLITS[split], (height, width), difficulty),
        frame_of((height, width)) & framed,
    )
    _add_objects(rng, easel, difficulty)
    if difficulty > CROWD_DIFFICULTY and rng.random() < CROWD_RATE:
        _add_crowd(rng, easel)
    easel.canvas[easel.hidden] = rng.choice([20, 235])
    return Scene(
        image=np.clip(easel.canvas.round(), 0, 255).astype(np.uint8),
        objects=easel.objects,
        classes=np.array(easel.classes),
        crowds=np.array(easel.crowds),
        framed=framed,
        difficulty=difficulty,
    )


class _Easel:
    """A picture being painted: refuses objects that would hide others."""

    def __init__(self, canvas: Array, hidden: Array) -> None:
        self.canvas = canvas
        self.hidden = hidden
        self.objects = np.zeros(hidden.shape, dtype=np.int32)
        self.classes: list[int] = []
        self.crowds: list[bool] = []
        self.sizes: list[int] = []

    def add(self, label: int, looks: list[Look]) -> bool:
        """Paint one object, or one crowd of several, if there is room."""
        shape = SHAPES[SAMPLE_CLASSES[label]]
        number = len(self.classes) + 1
        objects = self.objects.copy()
        patches = []
        for look in looks:
            rows, columns, local = _surroundings(look, objects.shape)
            alpha = coverage(shape, local, *objects[rows, columns].shape)
            objects[rows, columns][alpha >= 0.5] = number
            patches.append((rows, columns, local, alpha))
        objects[self.hidden] = 0
        visible = np.bincount(objects.ravel(), minlength=number + 1)[1:]
        sizes = [*self.sizes, int(visible[-1])]
        hides = (visible < MIN_VISIBLE * np.array(sizes)).any()
        if hides or sizes[-1] < MIN_PIXELS:
            return False
        for rows, columns, local, alpha in patches:
            paint(self.canvas[rows, columns], shape, local, alpha)
        self.objects, self.sizes = objects, sizes
        self.classes.append(label)
        self.crowds.append(len(looks) > 1)
        return True


def _add_objects(
    rng: np.random.Generator, easel: _Easel, difficulty: float
) -> None:
    """Add 1 large object (difficulty 0) up to some 25 small ones (1)."""
    height, width = easel.objects.shape
    count = 1 + round(20 * difficulty**1.7 * rng.uniform(0.8, 1.2))
    typical = min(height, width) * 0.34 * (0.065 / 0.34) ** difficulty
    kinds = 1 + rng.permutation(len(SAMPLE_CLASSES) - 1)
    kinds = kinds[: 1 + round(3 * difficulty)]
    for _ in range(count):
        label = int(rng.choice(kinds))
        colour = _colour(rng, label, difficulty)
        for _ in range(ATTEMPTS):
            radius = max(MIN_RADIUS, typical * rng.lognormal(0, 0.2))
            look = Look(
                x=rng.uniform(0.8 * radius, width - 0.8 * radius),
                y=rng.uniform(0.8 * radius, height - 0.8 * radius),
                radius=radius,
                turn=rng.uniform(0, 2 * np.pi),
                stretch=rng.uniform(0.9, 1.1),
                colour=colour,
            )
            if easel.add(label, [look]):
                break


def _add_crowd(rng: np.random.Generator, easel: _Easel) -> None:
    """Add one heap of tiny objects of one class."""
    height, width = easel.objects.shape
    label = int(rng.integers(1, len(SAMPLE_CLASSES)))
    for _ in range(ATTEMPTS):
        x, y = rng.uniform(0.15, 0.85, size=2) * (width, height)
        looks = [
            Look(
                x=x + rng.normal(0, 2.5 * MIN_RADIUS),
                y=y + rng.normal(0, 2.5 * MIN_RADIUS),
                radius=MIN_RADIUS,
                turn=rng.uniform(0, 2 * np.pi),
                stretch=1.0,
                colour=_colour(rng, label, 1.0),
            )
            for _ in range(rng.integers(6, 10))
        ]
        if easel.add(label, looks):
            return


def _colour(
    rng: np.random.Generator, label: int, difficulty: float
) -> tuple[float, float, float]:
    """Draw an object's hue, saturation and value near its class's own."""
    return (
        SHAPES[SAMPLE_CLASSES[label]].hue + rng.normal(0, 3 + 5 * difficulty),
        rng.uniform(0.8 - 0.15 * difficulty, 1.0),
        rng.uniform(0.8, 1.0),
    )


def _surroundings(
    look: Look, shape: tuple[int, int]
) -> tuple[slice, slice, Look]:
    """Cut out the part of a picture that an object can touch."""
    reach = 1.4 * look.radius + 1
    top, left = max(0, int(look.y - reach)), max(0, int(look.x - reach))
    bottom = max(top, min(shape[0], int(look.y + reach) + 1))
    right = max(left, min(shape[1], int(look.x + reach) + 1))
    local = look._replace(x=look.x - left, y=look.y - top)
    return slice(top, bottom), slice(left, right), local

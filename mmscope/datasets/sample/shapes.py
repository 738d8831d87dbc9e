"""The objects of the sample data: seven shapes, each with its own look.

A shape lives in its own coordinates: u to the right and v down, both in
units of the shape's radius, so that every shape fits into the unit disc or
slightly beyond it. Colour, texture and outline each hint at the class, so a
small model learns the classes quickly, and only size makes an object hard.
"""

import colorsys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Array = np.ndarray
SUPERSAMPLING = 4


class Shape(NamedTuple):
    """One class of objects.

    ``inside`` and ``texture`` take the coordinates u and v of any one shape
    and return, elementwise, membership and brightness in [0, 1].
    """

    hue: float
    inside: Callable[[Array, Array], Array]
    texture: Callable[[Array, Array], Array]


class Look(NamedTuple):
    """How one object is drawn: position and radius in pixels, turn in rad."""

    x: float
    y: float
    radius: float
    turn: float
    stretch: float
    colour: tuple[float, float, float]


def _circle(u: Array, v: Array) -> Array:
    return u**2 + v**2 < 0.81


def _triangle(u: Array, v: Array) -> Array:
    # 0.5 is the distance from the centre to each side
    return (v < 0.5) & (np.sqrt(3) * np.abs(u) - v < 1.0)


def _square(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u), np.abs(v)) < 0.76


def _star(u: Array, v: Array) -> Array:
    # five equal sectors, each folded on its axis: one straight edge is left
    sector = 2 * np.pi / 5
    angle = np.abs((np.arctan2(u, -v) + sector / 2) % sector - sector / 2)
    along, across = np.hypot(u, v) * (np.cos(angle), np.sin(angle))
    notch = 0.5 * np.array([np.cos(sector / 2), np.sin(sector / 2)])
    return (along - 1.1) * notch[1] < across * (notch[0] - 1.1)


def _ring(u: Array, v: Array) -> Array:
    square = u**2 + v**2
    return (square < 0.95) & (square > 0.25)


def _cross(u: Array, v: Array) -> Array:
    thin = np.minimum(np.abs(u), np.abs(v))
    return (thin < 0.3) & (np.maximum(np.abs(u), np.abs(v)) < 0.95)


def _bar(u: Array, v: Array) -> Array:
    return (np.abs(u) < 1.1) & (np.abs(v) < 0.32)


def _plain(u: Array, v: Array) -> Array:
    return np.ones_like(u)


def _glow(u: Array, v: Array) -> Array:
    return np.clip(1.15 - 0.8 * np.hypot(u, v), 0, 1)


def _stripes(u: Array, v: Array) -> Array:
    return 0.5 + 0.5 * np.sign(np.sin(11 * v))


def _checks(u: Array, v: Array) -> Array:
    return 0.5 + 0.5 * np.sign(np.sin(8 * u) * np.sin(8 * v))


def _dots(u: Array, v: Array) -> Array:
    return 1.0 * (np.cos(9 * u) * np.cos(9 * v) < 0.5)


def _bands(u: Array, v: Array) -> Array:
    return 0.5 + 0.5 * np.sin(9 * u)


def _spokes(u: Array, v: Array) -> Array:
    return 0.5 + 0.5 * np.sign(np.sin(8 * np.arctan2(v, u)))


def hsv_to_rgb(hue: float, saturation: float, value: float) -> Array:
    """Convert a hue in degrees, saturation and value in [0, 1] to 0 .. 255."""
    return 255 * np.array(
        colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)
    )


SHAPES: dict[str, Shape] = {
    'circle': Shape(0, _circle, _glow),
    'triangle': Shape(110, _triangle, _stripes),
    'square': Shape(218, _square, _checks),
    'star': Shape(50, _star, _plain),
    'ring': Shape(318, _ring, _spokes),
    'cross': Shape(174, _cross, _dots),
    'bar': Shape(268, _bar, _bands),
}
SAMPLE_CLASSES = ('background', *SHAPES)
SAMPLE_PALETTE = (
    (128, 128, 128),
    *(
        tuple(int(part) for part in hsv_to_rgb(shape.hue, 0.85, 0.95))
        for shape in SHAPES.values()
    ),
)


def coverage(shape: Shape, look: Look, height: int, width: int) -> Array:
    """Find how much of every pixel an object covers.

    Returns:
        Fraction of each pixel inside the shape, (height, width), in [0, 1].
    """
    steps = SUPERSAMPLING
    fine = shape.inside(*_coordinates(look, height, width, steps))
    return fine.reshape(height, steps, width, steps).mean(axis=(1, 3))


def paint(canvas: Array, shape: Shape, look: Look, alpha: Array) -> None:
    """Blend one object into a picture, in place.

    Args:
        canvas: Picture to paint on, (H, W, 3), float, 0 .. 255.
        shape: Class of the object.
        look: Place and colour of the shape.
        alpha: Coverage of each pixel, (H, W).
    """
    u, v = _coordinates(look, *alpha.shape)
    light = 0.72 + 0.28 * shape.texture(u, v)
    # lit from above left, whichever way the object is turned
    rows, columns = np.indices(alpha.shape)
    depth = (rows - look.y + columns - look.x) / look.radius
    light = light * (1 - 0.08 * np.clip(depth, -1.5, 1.5))
    body = np.clip(light[..., None] * hsv_to_rgb(*look.colour), 0, 255)
    canvas += alpha[..., None] * (body - canvas)


def _coordinates(
    look: Look, height: int, width: int, steps: int = 1
) -> tuple[Array, Array]:
    """Coordinates u and v at every (sub)pixel's centre, (H·steps, W·steps)."""
    y = (np.arange(height * steps) + 0.5) / steps - 0.5 - look.y
    x = (np.arange(width * steps) + 0.5) / steps - 0.5 - look.x
    y, x = np.meshgrid(y / look.radius, x / look.radius, indexing='ij')
    cos, sin = np.cos(look.turn), np.sin(look.turn)
    return (cos * x + sin * y) / look.stretch, (cos * y - sin * x) * (
        look.stretch
    )

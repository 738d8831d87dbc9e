"""Windows that slide over an image."""

from itertools import product

from torch import nn


def windows(
    canvas: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int]
) -> list[tuple[slice, slice]]:
    """Cover a canvas with windows, the last ones flush with its end.

    Args:
        canvas: Height and width.
        crop: Height and width of a window; a smaller canvas is one window.
        stride: Steps from window to window, down and across.

    Returns:
        Rows and columns of each.
    """
    sides = [
        [
            slice(min(start, last), min(start, last) + side)
            for start in range(0, last + step, step)
        ]
        for side, step, last in (
            (min(size, whole), step, max(whole - size, 0))
            for whole, size, step in zip(canvas, crop, stride, strict=True)
        )
    ]
    return list(product(*sides))


def slides(model: nn.Module) -> bool:
    """Tell whether a model decides about windows and not whole images."""
    return (getattr(model, 'test_cfg', None) or {}).get('mode') == 'slide'


def windows_of(
    model: nn.Module, canvas: tuple[int, int]
) -> list[tuple[slice, slice]]:
    """Windows in which a model sees a canvas, often the whole of it.

    Args:
        model: With mmseg's ``test_cfg``, or without.
        canvas: Height and width.
    """
    if not slides(model):
        return [(slice(0, canvas[0]), slice(0, canvas[1]))]
    return windows(canvas, model.test_cfg.crop_size, model.test_cfg.stride)

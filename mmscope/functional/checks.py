"""Errors that name the value and what is allowed."""

from collections.abc import Sequence
from numbers import Real

from torch import Tensor


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a ``value`` that is not one of the ``allowed`` names.

    Raises:
        ValueError: it is not.
    """
    if value not in allowed:
        raise ValueError(f'{name} must be one of {allowed}, got {value!r}')


def check_share(name: str, value: float | Tensor) -> float:
    """Refuse a ``value`` that is no number in [0, 1].

    Args:
        name: Name that the message gives it.
        value: A number, or a tensor of one element.

    Returns:
        The number.

    Raises:
        ValueError: it is something else, or out of range.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, Real):
        raise ValueError(
            f'{name} must be a number in [0, 1], got {value!r} of type '
            f'{type(value).__name__}'
        )
    if not 0 <= value <= 1:
        raise ValueError(f'{name} must be in [0, 1], got {value}')
    return value

"""Errors that name the value and what is allowed."""

from collections.abc import Sequence


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a ``value`` that is not one of the ``allowed`` names.

    Raises:
        ValueError: it is not.
    """
    if value not in allowed:
        raise ValueError(f'{name} must be one of {allowed}, got {value!r}')


def check_share(name: str, value: float) -> None:
    """Refuse a ``value`` outside [0, 1].

    Raises:
        ValueError: it is.
    """
    if not 0 <= value <= 1:
        raise ValueError(f'{name} must be in [0, 1], got {value}')

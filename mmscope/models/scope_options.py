"""Which options and inputs of MambaScope are allowed."""

from collections.abc import Sequence

from torch import Tensor

from mmscope.functional.assembly import CLS_POSITIONS, TOKEN_ORDERS
from mmscope.functional.checks import check_choice, check_share

from .reuse import REUSES

CHOICES = dict(
    out_type=('featmap',),
    reuse=REUSES,
    unselected=('embedding', 'feature'),
    cls_position=CLS_POSITIONS,
    token_order=TOKEN_ORDERS,
    exit_resolution=('fine', 'coarse'),
)


def check_options(**options: str) -> None:
    """Refuse options that are none of their choices."""
    for name, value in options.items():
        check_choice(name, value, CHOICES[name])


def check_numbers(
    alpha: float, beta: float, eta: float, exit_head: dict | None
) -> None:
    """Refuse shares out of range, and an eta that nothing can judge."""
    for name, value in dict(alpha=alpha, beta=beta, eta=eta).items():
        check_share(name, value)
    if beta == 1:
        raise ValueError('beta must be below 1, where no score counts')
    if exit_head is None and eta != 1:
        raise ValueError(
            f'eta={eta} needs an exit_head to judge confidence; give one, '
            'or set eta=1'
        )


def resolve_score_layers(
    layers: Sequence[int] | None, num_layers: int
) -> tuple[int, ...]:
    """Blocks that score tokens; every second of the latter half by default.

    Raises:
        ValueError: there is no such block, or none is given.
    """
    if layers is None:
        return tuple(range(num_layers // 2, num_layers, 2))
    if not layers or not all(0 <= i < num_layers for i in layers):
        raise ValueError(
            'score_layers must be block numbers in '
            f'[0, {num_layers - 1}], got {tuple(layers)}'
        )
    return tuple(layers)


def check_valid(valid: Tensor, x: Tensor, stride: int) -> Tensor:
    """Flatten a mask of valid coarse cells to (B, N_c).

    Args:
        valid: (B, H / stride, W / stride).
        x: Padded images, (B, 3, H, W).
        stride: Of the coarse cells, in pixels.

    Raises:
        ValueError: the mask is of another shape.
    """
    expected = (len(x), *(side // stride for side in x.shape[2:]))
    if tuple(valid.shape) != expected:
        raise ValueError(
            f'valid must have one entry for each coarse cell, {expected}, '
            f'got {tuple(valid.shape)}'
        )
    return valid.flatten(1)

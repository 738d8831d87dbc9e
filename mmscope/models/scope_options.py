"""Which options and inputs of MambaScope are allowed."""

from collections.abc import Sequence

from torch import Tensor, nn

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


def check_eta(eta: float | Tensor, exit_head: nn.Module | None) -> float:
    """Refuse thresholds out of range, and those that nothing can judge.

    Args:
        eta: Threshold.
        exit_head: Head that gives a confidence, or None.

    Returns:
        The threshold as a number.

    Raises:
        ValueError: it is none in [0, 1], or there is no exit head.
    """
    eta = check_share('eta', eta)
    if exit_head is None and eta != 1:
        raise ValueError(
            f'eta={eta} needs an exit_head to judge confidence; build the '
            'backbone with one, or use eta=1'
        )
    return eta


class ScopeNumbers:
    """Mixin of a backbone: its shares, checked whenever they are set."""

    exit_head: nn.Module | None

    @property
    def alpha(self) -> float:
        """Share of coarse cells to refine, in [0, 1]."""
        return self._alpha

    @alpha.setter
    def alpha(self, value: float | Tensor) -> None:
        self._alpha = check_share('alpha', value)

    @property
    def beta(self) -> float:
        """Smoothing of importance over layers, in [0, 1)."""
        return self._beta

    @beta.setter
    def beta(self, value: float | Tensor) -> None:
        beta = check_share('beta', value)
        if beta == 1:
            raise ValueError('beta must be below 1, where no score counts')
        self._beta = beta

    @property
    def eta(self) -> float:
        """Confidence from which an image exits, in [0, 1]."""
        return self._eta

    @eta.setter
    def eta(self, value: float | Tensor) -> None:
        self._eta = check_eta(value, self.exit_head)


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
        stride: Side of a coarse cell in pixels.

    Raises:
        ValueError: the mask is of another shape.
    """
    expected = (x.shape[0], *(side // stride for side in x.shape[2:]))
    if tuple(valid.shape) != expected:
        raise ValueError(
            f'valid must have one entry for each coarse cell, {expected}, '
            f'got {tuple(valid.shape)}'
        )
    return valid.flatten(1)

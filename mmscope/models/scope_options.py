"""Which options and inputs of MambaScope are allowed."""

from collections.abc import Sequence
from numbers import Real

from torch import Tensor, nn

from mmscope.functional.assembly import CLS_POSITIONS, TOKEN_ORDERS
from mmscope.functional.checks import check_choice, check_share

from .reuse import REUSES

CHOICES = dict(
    out_type=('featmap', 'cls_token'),
    reuse=REUSES,
    unselected=('embedding', 'feature', 'drop'),
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


def check_policy(exit_policy: dict | None, exit_head: dict | None) -> None:
    """Refuse an exit policy that has nothing to judge.

    Raises:
        ValueError: there is a policy and no exit head.
    """
    if exit_policy is not None and exit_head is None:
        raise ValueError(
            f'exit_policy={exit_policy} judges what an exit_head says; '
            'give one, or leave out the policy'
        )


def check_reuse_cls(reuse_cls: bool, reuse: str) -> None:
    """Refuse to hand on the class token where no feature is.

    Raises:
        ValueError: nothing is reused.
    """
    if reuse_cls and reuse == 'none':
        raise ValueError("reuse_cls=True needs reuse='mlp' or 'linear'")


def check_cls_type(
    out_type: str, out_indices: Sequence[int], num_layers: int
) -> None:
    """Refuse class tokens of other blocks than the last.

    Raises:
        ValueError: the last block is not among ``out_indices``.
    """
    if out_type == 'cls_token' and out_indices[-1] != num_layers - 1:
        raise ValueError(
            "out_type='cls_token' returns the class token after the last "
            f'block: out_indices must end with {num_layers - 1}, got '
            f'{tuple(out_indices)}'
        )


def check_context(num_context: int, unselected: str) -> None:
    """Refuse context tokens that nothing would make.

    Raises:
        ValueError: the number is negative or no integer, or no cell is
            dropped.
    """
    if not isinstance(num_context, int) or num_context < 0:
        raise ValueError(
            f'num_context must be an integer of at least 0, got {num_context}'
        )
    if num_context and unselected != 'drop':
        raise ValueError(
            f'num_context={num_context} stands for dropped cells, and '
            f"unselected={unselected!r} drops none: set unselected='drop'"
        )


def check_alpha(
    alpha: float | Tensor | Sequence[float],
) -> float | tuple[float, ...]:
    """Refuse shares out of range, and ladders that do not rise.

    Args:
        alpha: Share of cells, or several in ascending order.

    Returns:
        The share as a number, or the ladder as numbers.

    Raises:
        ValueError: a share is none in [0, 1], or the ladder has none, or 0,
            or does not ascend.
    """
    if not isinstance(alpha, list | tuple):
        return check_share('alpha', alpha)
    ladder = tuple(check_share('alpha', share) for share in alpha)
    if not ladder or ladder[0] == 0 or list(ladder) != sorted(set(ladder)):
        raise ValueError(
            'a ladder of alpha must have ascending shares in (0, 1], such as '
            f'(0.2, 0.4, 0.6, 0.8, 1), got {tuple(alpha)}; a share of 0 is an '
            'exit, which eta and tau decide'
        )
    return ladder


def check_tau(tau: float | Tensor | None) -> float | None:
    """Refuse thresholds of cell scores that are no numbers.

    Args:
        tau: Threshold, or None.

    Returns:
        The threshold as a number, or None.

    Raises:
        ValueError: it is no number.
    """
    if isinstance(tau, Tensor) and tau.numel() == 1:
        tau = tau.item()
    if tau is None:
        return None
    # of nan nothing is larger, nor smaller
    if not isinstance(tau, Real) or isinstance(tau, bool) or tau != tau:
        raise ValueError(
            f'tau must be a number or None, got {tau!r}; scores above it are '
            'refined, and None refines all cells that alpha allows'
        )
    return float(tau)


class ScopeNumbers:
    """Mixin of a backbone: its shares, checked whenever they are set."""

    exit_head: nn.Module | None

    @property
    def alpha(self) -> float | tuple[float, ...]:
        """Share of coarse cells to refine, in [0, 1], or several of them."""
        return self._alpha

    @alpha.setter
    def alpha(self, value: float | Tensor | Sequence[float]) -> None:
        self._alpha = check_alpha(value)

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of coarse cells that can be refined, ascending."""
        return self.alpha if isinstance(self.alpha, tuple) else (self.alpha,)

    @property
    def tau(self) -> float | None:
        """Score above which a cell is worth refining, or None for all."""
        return self._tau

    @tau.setter
    def tau(self, value: float | Tensor | None) -> None:
        self._tau = check_tau(value)

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

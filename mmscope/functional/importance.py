"""Token importance from the activations of the state-space model."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_choice

METRICS = ('max_softplus', 'softplus', 'no_clip', 'clip', 'l2', 'topk')
DIRECTIONS = ('max', 'sum')


def importance_score(
    y: Tensor,
    metric: str = 'max_softplus',
    direction: str = 'max',
    num_top: int = 8,
) -> Tensor:
    """Score each token by its SSM activations (Eq. 11 and Table 4).

    The paper does not say how the two directions merge, nor how many
    channels 'topk' averages; ``direction`` and ``num_top`` are our guesses.

    Args:
        y: SSM output before the gate, with the D skip, forward and backward
            scan stacked, (2, B, L, D).
        metric: 'max_softplus' is Eq. 11; the others are rows of Table 4:
            mean softplus, mean y, mean ReLU(y), L2 norm, and the mean of the
            ``num_top`` largest activations.
        direction: 'max' takes the better of the two directions' scores,
            'sum' scores the sum of their activations.
        num_top: Channels that 'topk' averages; at most D are used.

    Returns:
        Importance in float32 (float64 for float64 input), (B, L).

    Raises:
        ValueError: ``metric`` or ``direction`` is unknown.
    """
    check_choice('importance metric', metric, METRICS)
    check_choice('importance direction', direction, DIRECTIONS)
    y = y.to(torch.promote_types(y.dtype, torch.float32))
    if direction == 'sum':
        y = y.sum(dim=0, keepdim=True)
    if metric == 'max_softplus':
        # softplus is monotone, so one softplus after the max is enough
        score = F.softplus(y.amax(dim=-1))
    elif metric == 'softplus':
        score = F.softplus(y).mean(dim=-1)
    elif metric == 'no_clip':
        score = y.mean(dim=-1)
    elif metric == 'clip':
        score = y.relu().mean(dim=-1)
    elif metric == 'l2':
        score = y.norm(dim=-1)
    else:
        score = y.topk(min(num_top, y.shape[-1]), dim=-1).values.mean(dim=-1)
    return score.amax(dim=0)


def accumulate_importance(
    average: Tensor | None, score: Tensor, beta: float
) -> Tensor:
    """Moving average of the scores over layers, from zero (Eq. 12).

    Args:
        average: Average over the layers so far, (B, L), or None before the
            first.
        score: Score of this layer, (B, L).
        beta: Smoothing factor in [0, 1).

    Returns:
        The new average, (B, L).
    """
    score = (1 - beta) * score
    return score if average is None else beta * average + score

"""When the coarse answer is good enough."""

import torch
from torch import Tensor

from .checks import check_choice

MULTI_LABEL_CONFIDENCES = ('mean_positive', 'max', 'min_positive', 'certainty')


def single_label_confidence(logits: Tensor) -> Tensor:
    """Probability of the predicted class (Eq. 6-7).

    Args:
        logits: (B, K).

    Returns:
        Confidence in float32, (B,).
    """
    return logits.float().softmax(dim=1).amax(dim=1)


def multi_label_confidence(
    logits: Tensor, mode: str = 'mean_positive'
) -> Tensor:
    """Confidence of a prediction of several classes.

    The paper does not define it. ``mean_positive`` and ``min_positive`` take
    the mean or the minimum over the classes with p >= 0.5; where there is
    none they take the largest p, which is below 0.5, so that a head that
    sees nothing refines. ``max`` is Eq. 6-7 to the letter. ``certainty`` is
    the mean of max(p, 1 - p), which saturates with many absent classes.

    Args:
        logits: (B, K).
        mode: 'mean_positive', 'max', 'min_positive' or 'certainty'.

    Returns:
        Confidence in float32, (B,).

    Raises:
        ValueError: ``mode`` is unknown.
    """
    check_choice('confidence', mode, MULTI_LABEL_CONFIDENCES)
    prob = logits.float().sigmoid()
    if mode == 'certainty':
        return torch.maximum(prob, 1 - prob).mean(dim=1)
    highest = prob.amax(dim=1)
    if mode == 'max':
        return highest
    positive = prob >= 0.5
    count = positive.sum(dim=1)
    if mode == 'mean_positive':
        chosen = (prob * positive).sum(dim=1) / count.clamp(min=1)
    else:
        chosen = prob.masked_fill(~positive, 1.0).amin(dim=1)
    return torch.where(count > 0, chosen, highest)


def should_exit(confidence: Tensor, eta: float) -> Tensor:
    """Which images keep their coarse answer.

    An image exits iff its confidence is at least ``eta``, but for the ends:
    ``eta=0`` always exits, ``eta=1`` never does. A confidence that is not
    finite refines.

    Args:
        confidence: (B,).
        eta: Threshold in [0, 1].

    Returns:
        (B,) bool.
    """
    if eta <= 0:
        return torch.ones_like(confidence, dtype=torch.bool)
    if eta >= 1:
        return torch.zeros_like(confidence, dtype=torch.bool)
    return (confidence >= eta) & confidence.isfinite()

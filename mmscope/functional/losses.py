"""Losses that tie the coarse answer to the fine one (Eq. 21)."""

import torch.nn.functional as F
from torch import Tensor

from .checks import check_choice

CONSISTENCIES = ('teacher', 'eq21')
LABELS = ('single', 'multi', 'dense')


def categorical_kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) between categorical distributions along axis 1.

    Args:
        p: Logits, (B, K, ...).
        q: Logits, (B, K, ...).

    Returns:
        (B, ...), without the class axis.
    """
    log_p, log_q = p.log_softmax(dim=1), q.log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def bernoulli_kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) between independent Bernoulli distributions.

    Args:
        p: Logits, any shape.
        q: Logits, same shape.

    Returns:
        One value for each element, same shape.
    """
    present = F.logsigmoid(p) - F.logsigmoid(q)
    absent = F.logsigmoid(-p) - F.logsigmoid(-q)
    prob = p.sigmoid()
    return prob * present + (1 - prob) * absent


def consistency_loss(
    coarse: Tensor,
    fine: Tensor,
    labels: str = 'multi',
    consistency: str = 'teacher',
) -> Tensor:
    """Divergence between the coarse answer q and the fine answer p.

    Eq. 21 has KL(q || p) and does not say whether p is detached. The default
    follows CF-ViT's practice: the fine side is a detached teacher and the
    divergence is KL(p || q). 'eq21' is the equation to the letter, nothing
    detached.

    Args:
        coarse: Logits of the coarse stage, (B, K), or (B, K, H, W) if dense.
        fine: Logits of the fine stage, same shape.
        labels: 'single' (batch mean), 'multi' (Bernoulli, mean over classes
            and batch) or 'dense' (mean over pixels and batch).
        consistency: 'teacher' or 'eq21'.

    Returns:
        Scalar in float32.

    Raises:
        ValueError: ``labels`` or ``consistency`` is unknown.
    """
    check_choice('labels', labels, LABELS)
    check_choice('consistency', consistency, CONSISTENCIES)
    divergence = bernoulli_kl if labels == 'multi' else categorical_kl
    coarse, fine = coarse.float(), fine.float()
    if consistency == 'teacher':
        return divergence(fine.detach(), coarse).mean()
    return divergence(coarse, fine).mean()

import math

import pytest
import torch

from mmscope.functional import consistency_loss


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def bernoulli(p: float, q: float) -> float:
    return kl([p, 1 - p], [q, 1 - q])


COARSE = torch.tensor([[0.6, 0.2], [0.5, 0.9]], dtype=torch.float64)
FINE = torch.tensor([[0.9, 0.3], [0.4, 0.8]], dtype=torch.float64)


@pytest.mark.parametrize('consistency', ['teacher', 'eq21'])
def test_multi_label_kl_equals_hand_computed(consistency) -> None:
    loss = consistency_loss(COARSE.logit(), FINE.logit(), 'multi', consistency)
    pairs = zip(FINE.flatten(), COARSE.flatten(), strict=True)
    terms = [
        bernoulli(p.item(), q.item())
        if consistency == 'teacher'
        else bernoulli(q.item(), p.item())
        for p, q in pairs
    ]
    assert loss.item() == pytest.approx(sum(terms) / 4, rel=1e-5)


@pytest.mark.parametrize('consistency', ['teacher', 'eq21'])
@pytest.mark.parametrize('labels', ['single', 'dense'])
def test_categorical_kl_equals_hand_computed(labels, consistency) -> None:
    p, q = [0.7, 0.2, 0.1], [0.2, 0.5, 0.3]
    shape = (2, 3) if labels == 'single' else (2, 3, 4, 5)
    view = (1, 3) if labels == 'single' else (1, 3, 1, 1)
    fine = torch.tensor(p).log().view(view).expand(shape)
    coarse = torch.tensor(q).log().view(view).expand(shape)
    loss = consistency_loss(coarse, fine, labels, consistency)
    expected = kl(p, q) if consistency == 'teacher' else kl(q, p)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('labels', ['single', 'multi'])
def test_teacher_gets_no_gradient(labels) -> None:
    coarse = COARSE.logit().requires_grad_()
    fine = FINE.logit().requires_grad_()
    consistency_loss(coarse, fine, labels).backward()
    assert fine.grad is None or not fine.grad.any()
    assert coarse.grad.abs().min() > 0


def test_eq21_moves_both_sides() -> None:
    coarse = COARSE.logit().requires_grad_()
    fine = FINE.logit().requires_grad_()
    consistency_loss(coarse, fine, 'multi', 'eq21').backward()
    assert fine.grad.abs().min() > 0
    assert coarse.grad.abs().min() > 0


def test_equal_answers_cost_nothing_and_extremes_stay_finite() -> None:
    logits = torch.tensor([[80.0, -80.0, 0.0]])
    assert consistency_loss(logits, logits).item() == 0
    assert consistency_loss(-logits, logits).isfinite()


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="consistency must .* got 'kl'"):
        consistency_loss(COARSE, FINE, consistency='kl')
    with pytest.raises(ValueError, match="labels must .* got 'many'"):
        consistency_loss(COARSE, FINE, labels='many')

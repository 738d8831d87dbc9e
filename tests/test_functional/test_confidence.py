import math

import pytest
import torch

from mmscope.functional import (
    multi_label_confidence,
    should_exit,
    single_label_confidence,
)


def logits_of(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).logit()


@pytest.mark.parametrize(
    ('mode', 'probabilities', 'expected'),
    [
        ('mean_positive', (0.9, 0.7, 0.1), 0.8),
        ('mean_positive', (0.3, 0.4, 0.1), 0.4),
        ('max', (0.9, 0.7, 0.1), 0.9),
        ('min_positive', (0.9, 0.7, 0.1), 0.7),
        ('min_positive', (0.3, 0.4, 0.1), 0.4),
        ('certainty', (0.9, 0.7, 0.1), (0.9 + 0.7 + 0.9) / 3),
    ],
)
def test_multi_label_modes(mode, probabilities, expected) -> None:
    confidence = multi_label_confidence(logits_of(*probabilities), mode)
    assert confidence.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('mode', ['mean_positive', 'max', 'min_positive'])
def test_a_head_that_sees_nothing_refines(mode) -> None:
    nothing = logits_of(*[0.02] * 150)
    assert not should_exit(multi_label_confidence(nothing, mode), 0.6).any()


def test_single_label_is_the_largest_probability() -> None:
    logits = torch.tensor([[math.log(3), 0.0]])
    assert single_label_confidence(logits).item() == pytest.approx(0.75)


@pytest.mark.parametrize(
    ('eta', 'expected'),
    [
        (0.0, [True, True, True, True]),
        (0.7, [False, True, True, False]),
        (1.0, [False, False, False, False]),
    ],
)
def test_exit_rule_and_its_ends(eta, expected) -> None:
    confidence = torch.tensor([0.69, 0.7, 1.0, math.nan])
    assert should_exit(confidence, eta).tolist() == expected


def test_infinite_confidence_refines() -> None:
    assert not should_exit(torch.tensor([math.inf]), 0.5).item()


def test_half_precision_logits_are_judged_in_float32() -> None:
    logits = torch.randn(3, 150).half()
    assert multi_label_confidence(logits).dtype == torch.float32

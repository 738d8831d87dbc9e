import pytest
import torch
from torch.nn.functional import softplus

from mmscope.functional import accumulate_importance, importance_score

# (directions, batch, tokens, channels)
Y = torch.tensor([[[[1.0, -2.0, 3.0]]], [[[-4.0, 2.0, 0.0]]]])


@pytest.mark.parametrize(
    ('metric', 'expected'),
    [
        ('max_softplus', softplus(torch.tensor(3.0)).item()),
        ('softplus', softplus(torch.tensor([1.0, -2, 3])).mean().item()),
        ('no_clip', 2 / 3),
        ('clip', 4 / 3),
        ('l2', 20**0.5),
        ('topk', 2.0),
    ],
)
def test_metrics_match_hand_computed_values(metric, expected) -> None:
    score = importance_score(Y, metric, num_top=2)
    assert score.shape == (1, 1)
    assert score.item() == pytest.approx(expected, rel=1e-6)


def test_sum_scores_the_summed_activations() -> None:
    score = importance_score(Y, 'no_clip', direction='sum')
    assert score.item() == pytest.approx(0.0)
    score = importance_score(Y, 'max_softplus', direction='sum')
    assert score.item() == pytest.approx(softplus(torch.tensor(3.0)).item())


def test_topk_takes_no_more_channels_than_there_are() -> None:
    assert importance_score(Y, 'topk', num_top=8).item() == pytest.approx(
        2 / 3
    )


def test_half_precision_is_scored_in_float32() -> None:
    assert importance_score(Y.bfloat16()).dtype == torch.float32


def test_average_starts_at_zero_and_follows_eq_12() -> None:
    average = accumulate_importance(None, torch.tensor([[4.0]]), beta=0.75)
    assert average.item() == 1.0
    average = accumulate_importance(average, torch.tensor([[8.0]]), beta=0.75)
    assert average.item() == 0.75 * 1.0 + 0.25 * 8.0


@pytest.mark.parametrize(
    ('options', 'name'),
    [(dict(metric='maxi'), 'maxi'), (dict(direction='up'), 'up')],
)
def test_unknown_choices_name_the_allowed_ones(options, name) -> None:
    with pytest.raises(ValueError, match=rf"must be one of .* got '{name}'"):
        importance_score(Y, **options)

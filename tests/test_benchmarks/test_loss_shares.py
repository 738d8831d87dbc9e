"""benchmarks.loss_shares: gradients of each loss, by hand."""

import pytest
import torch

from benchmarks.loss_shares import gradient_norms, total_of


def test_norms_are_those_of_each_loss_alone():
    layer = torch.nn.Linear(3, 1, bias=False)
    layer.weight.data.fill_(2.0)
    out = layer(torch.tensor([[3.0, 0.0, 4.0]]))
    losses = dict(
        loss_a=out.sum(),
        loss_b=[out.sum(), 2 * out.sum()],
        loss_far=torch.ones((), requires_grad=True) * 3,
        loss_constant=torch.ones(()),
        acc=torch.tensor(50.0),
    )
    assert set(total_of(losses)) == set(losses) - {'acc'}
    norms = gradient_norms(losses, layer)
    # the gradient of a sum is the input, of norm 5
    assert norms == pytest.approx(
        dict(loss_a=5.0, loss_b=15.0, loss_far=0.0, loss_constant=0.0)
    )
    assert layer.weight.grad is None

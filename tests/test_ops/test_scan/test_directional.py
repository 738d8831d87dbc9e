"""One direction of the two, by every backend."""

import pytest
import torch

from mmscope.ops import bidirectional_scan, directional_scan


@pytest.mark.parametrize('backend', ['reference', 'torch', 'auto'])
@pytest.mark.parametrize('direction', [0, 1])
def test_it_is_one_of_the_two_directions(direction, backend):
    torch.manual_seed(0)
    batch, length, dim, states = 2, 37, 6, 4
    u, delta = torch.randn(2, 2, batch, length, dim)
    B, C = torch.randn(2, 2, batch, length, states)
    A = -torch.rand(2, dim, states) - 0.1
    D, bias = torch.randn(2, 2, dim)
    whole = [u, delta, A, B, C, D, bias]
    one = [t[direction].clone().requires_grad_() for t in whole]
    whole = [t.clone().requires_grad_() for t in whole]
    both = bidirectional_scan(
        *whole[:6], delta_bias=whole[6], merge=False, backend='reference'
    )
    out = directional_scan(*one, reverse=direction == 1, backend=backend)
    torch.testing.assert_close(out, both[direction], rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(out)
    expected = torch.autograd.grad((both[direction] * weight).sum(), whole)
    grads = torch.autograd.grad((out * weight).sum(), one)
    for grad, all_of_them in zip(grads, expected, strict=True):
        torch.testing.assert_close(
            grad, all_of_them[direction], rtol=1e-3, atol=1e-4
        )


def test_shapes_that_do_not_agree_are_named():
    u = torch.randn(2, 5, 3)
    A, states = -torch.rand(3, 4), torch.randn(2, 5, 4)
    with pytest.raises(ValueError, match='delta'):
        directional_scan(u, u[:, :4], A, states, states)

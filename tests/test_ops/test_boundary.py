"""The C++ operators check what they get: compiled programs call them bare."""

from __future__ import annotations

import pytest
import torch
from layer_cases import needs_build
from scan_cases import scan_inputs

pytestmark = needs_build
OPS = torch.ops.mmscope


def scan_call() -> tuple[list, dict[str, int]]:
    """Arguments of ``scan_forward`` that are right, and names of tensors."""
    inputs = scan_inputs(2, 9, 5, 3, torch.float32)
    tensors = list(inputs.values())
    names = {name: i for i, name in enumerate(inputs)}
    return [*tensors, True, [0, 1], True, True, 4, True], names


def scan_backward_call() -> tuple[list, dict[str, int]]:
    arguments, names = scan_call()
    _, _, starts = OPS.scan_forward(*arguments)
    names = {name: i + 2 for name, i in names.items()}
    given = [torch.rand(2, 9, 5), starts, *arguments[:11], 4]
    return given, dict(names, grad=0, starts=1)


def conv_call() -> tuple[list, dict[str, int]]:
    given = [torch.rand(2, 7, 5), torch.rand(2, 5, 4), torch.rand(2, 5)]
    return given, dict(x=0, weight=1, bias=2)


def conv_backward_call() -> tuple[list, dict[str, int]]:
    given, names = conv_call()
    names = {name: i + 1 for name, i in names.items()}
    return [torch.rand(2, 2, 7, 5), *given], dict(names, grad=0)


def norm_call() -> tuple[list, dict[str, int]]:
    return [torch.rand(2, 7, 5), torch.rand(5), 1e-5], dict(x=0, weight=1)


def norm_backward_call() -> tuple[list, dict[str, int]]:
    (x, weight, eps), _ = norm_call()
    _, scale = OPS.rms_norm_forward(x, weight, eps)
    names = dict(grad=0, x=1, scale=2, weight=3)
    return [torch.rand_like(x), x, scale, weight], names


CALLS = {
    'scan_forward': scan_call,
    'scan_backward': scan_backward_call,
    'conv_forward': conv_call,
    'conv_backward': conv_backward_call,
    'rms_norm_forward': norm_call,
    'rms_norm_backward': norm_backward_call,
}
EACH = [
    (operator, name) for operator, make in CALLS.items() for name in make()[1]
]
SPOILT = {
    'shorter': lambda x: x[..., :-1],
    'longer': lambda x: torch.cat([x, x], dim=-1),
    'fewer rows': lambda x: x[:1] if x.dim() > 1 else x[:0],
    'one axis more': lambda x: x[None],
    'one axis less': lambda x: x[0],
    'integers': lambda x: x.long(),
    'complex': lambda x: x + 1j,
    'sparse': lambda x: x.to_sparse(),
}
# other sizes, but right ones: fewer images, more taps, any leading axes
RIGHT = {
    *(('conv_forward', 'x', 'fewer rows'),),
    *(('conv_forward', 'weight', how) for how in ('shorter', 'longer')),
    *(('conv_backward', 'weight', how) for how in ('shorter', 'longer')),
    *(
        ('rms_norm_forward', 'x', how)
        for how in ('fewer rows', 'one axis more', 'one axis less')
    ),
}
WRONG = [(*one, how) for one in EACH for how in SPOILT]


@pytest.mark.parametrize('operator', CALLS)
def test_the_right_call_runs(operator):
    arguments, _ = CALLS[operator]()
    getattr(OPS, operator)(*arguments)


@pytest.mark.parametrize(
    ('operator', 'name', 'how'), [one for one in WRONG if one not in RIGHT]
)
def test_every_wrong_tensor_is_refused(operator, name, how):
    arguments, names = CALLS[operator]()
    arguments[names[name]] = SPOILT[how](arguments[names[name]])
    with pytest.raises((RuntimeError, TypeError, NotImplementedError)):
        getattr(OPS, operator).default(*arguments)


def test_the_error_names_the_tensor_and_both_shapes():
    wrong = torch.rand(1, 4, 8), torch.rand(2, 4, 3), torch.rand(2, 4)
    with pytest.raises(RuntimeError, match=r'weight must be .*8, 3.*4, 3'):
        OPS.conv_forward(*wrong)


def test_backward_without_states_says_why():
    arguments, names = scan_backward_call()
    arguments[names['starts']] = torch.empty(0)
    with pytest.raises(RuntimeError, match='save=True and the same chunk'):
        OPS.scan_backward(*arguments)
    arguments, names = scan_backward_call()
    arguments[-1] = 2
    with pytest.raises(RuntimeError, match='save=True and the same chunk'):
        OPS.scan_backward(*arguments)


def test_no_tokens_at_all():
    x, weight, bias = (
        torch.rand(0, 7, 5),
        torch.rand(2, 5, 4),
        torch.rand(2, 5),
    )
    assert OPS.conv_forward(x, weight, bias).shape == (2, 0, 7, 5)
    assert OPS.conv_forward(x.view(7, 0, 5), weight, bias).numel() == 0
    out, scale = OPS.rms_norm_forward(x, torch.rand(5), 1e-5)
    assert out.shape == x.shape and scale.shape == (0, 7)
    with pytest.raises(RuntimeError, match='channels'):
        OPS.conv_forward(torch.rand(1, 2, 0), torch.rand(2, 0, 4), bias[:, :0])

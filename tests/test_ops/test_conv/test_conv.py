"""The bidirectional convolution against torch's own, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from layer_cases import (
    assert_close_to_exact,
    assert_same_bits,
    needs_build,
    normal,
    values_and_grads,
)
from scan_cases import TOLERANCE, weight_like
from torch import Tensor

from mmscope.ops import bidirectional_conv, use_backend
from mmscope.ops.conv.entry import plain_conv
from mmscope.ops.scan import cpu as cpu_scan

WIDE = {torch.float64: torch.float64}  # dtype of the weights, else float32


def exact_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``conv1d`` on the sequence, and on its reverse."""
    length, dim, taps = x.shape[1], x.shape[2], weight.shape[-1]
    outputs = []
    for g, tokens in enumerate((x, x.flip(1))):
        out = F.conv1d(
            tokens.transpose(1, 2),
            weight[g].unsqueeze(1),
            bias[g],
            padding=taps - 1,
            groups=dim,
        )
        outputs.append(F.silu(out[..., :length]).transpose(1, 2))
    return torch.stack([outputs[0], outputs[1].flip(1)])


def conv_inputs(batch, length, dim, taps=4, dtype=torch.float32):
    """Inputs; x is half of a projection, as in the mixer."""
    wide = WIDE.get(dtype, torch.float32)
    projected = normal(batch, length, 2 * dim, dtype=dtype, seed=0)
    return {
        'x': projected[..., :dim],
        'weight': normal(2, dim, taps, dtype=wide, seed=1),
        'bias': normal(2, dim, dtype=wide, seed=2),
    }


def cpp_conv(**inputs):
    return bidirectional_conv(**inputs, backend='cpu')


# one lane, a full vector, one more, several; sequences shorter than the
# taps; a piece of tokens that is full, and not; several images
SHAPES = [
    (2, 9, 5, 4),
    (1, 1, 16, 4),
    (3, 2, 33, 4),
    (1, 32, 1, 4),
    (2, 65, 17, 4),
    (1, 129, 67, 4),
    (40, 33, 20, 4),
    (2, 37, 24, 1),
    (1, 40, 18, 3),
    (2, 5, 16, 9),
]


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.usefixtures('isa')
def test_every_instruction_set(dtype, shape):
    inputs = conv_inputs(*shape, dtype=dtype)
    assert_close_to_exact(cpp_conv, exact_conv, inputs, dtype)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('shape', SHAPES)
def test_plain_torch(dtype, shape):
    inputs = conv_inputs(*shape, dtype=dtype)
    assert_close_to_exact(plain_conv, exact_conv, inputs, dtype)


@needs_build
@pytest.mark.parametrize('dtype', TOLERANCE)
def test_weights_of_the_tokens_dtype(dtype):
    inputs = conv_inputs(2, 21, 19, dtype=dtype)
    inputs = {k: v.to(dtype) for k, v in inputs.items()}
    assert_close_to_exact(cpp_conv, exact_conv, inputs, dtype)


def test_backward_direction_is_the_forward_one_reversed():
    inputs = conv_inputs(2, 19, 6)
    inputs['weight'][1] = inputs['weight'][0]
    inputs['bias'][1] = inputs['bias'][0]
    inputs['x'] = torch.cat([inputs['x'], inputs['x'].flip(1)], dim=1)
    forward, backward = bidirectional_conv(**inputs)
    torch.testing.assert_close(forward, backward.flip(1))


@needs_build
def test_large_and_infinite_values(isa):
    """SiLU goes to 0 below and to x above; NaN reaches its readers only."""
    x = torch.tensor([-1e4, -90.0, 90.0, 1e30, torch.inf, torch.nan])
    x = x.repeat(1, 9, 4)
    weight = torch.zeros(2, 24, 4)
    weight[..., 3] = 1
    x[:, 1:] = x[:, :1].where(x[:, :1].isfinite(), 0)
    out = cpp_conv(x=x, weight=weight, bias=torch.zeros(2, 24))
    expected = F.silu(x[:, 0])
    torch.testing.assert_close(
        out[:, :, 0], expected.expand(2, 1, 24), equal_nan=True
    )
    assert out[:, :, 4:].isfinite().all()


@needs_build
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_any_strides(dtype):
    inputs = conv_inputs(3, 40, 20, dtype=dtype)
    runs = []
    for x in (
        inputs['x'],
        inputs['x'].contiguous(),
        inputs['x'].mT.contiguous().mT,
        inputs['x'].transpose(0, 1).contiguous().transpose(0, 1),
    ):
        runs.append(values_and_grads(cpp_conv, {**inputs, 'x': x}))
    assert_same_bits(runs)


@needs_build
def test_expanded_inputs_and_gradient():
    inputs = conv_inputs(1, 40, 20)
    x = inputs['x'][:, :1].expand(2, 40, 20).detach().requires_grad_()
    copy = x.detach().clone().requires_grad_()
    for tokens, grad in (
        (x, torch.ones(()).expand(2, 2, 40, 20)),
        (copy, torch.ones(2, 2, 40, 20)),
    ):
        bidirectional_conv(
            tokens, inputs['weight'], inputs['bias'], 'cpu'
        ).backward(grad)
    assert torch.equal(x.grad, copy.grad)


@needs_build
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_same_bits_for_any_number_of_threads(threads, dtype):
    inputs, runs = conv_inputs(3, 170, 50, dtype=dtype), []
    for count in (1, 2, 3, 5, 2):
        threads(count)
        runs.append(values_and_grads(cpp_conv, inputs))
    assert_same_bits(runs)


@needs_build
def test_images_are_independent():
    inputs = conv_inputs(40, 33, 20)
    both = cpp_conv(**inputs)
    inputs['x'] = inputs['x'][7:8]
    assert torch.equal(cpp_conv(**inputs), both[:, 7:8])


@needs_build
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_opcheck(dtype):
    inputs = conv_inputs(2, 9, 20, dtype=dtype)
    leaves = [v.detach().requires_grad_() for v in inputs.values()]
    torch.library.opcheck(torch.ops.mmscope.conv_forward.default, leaves)
    out = torch.ops.mmscope.conv_forward.default(*inputs.values())
    torch.library.opcheck(
        torch.ops.mmscope.conv_backward.default,
        (weight_like(out), *inputs.values()),
    )


@needs_build
def test_gradients_only_where_needed():
    inputs = conv_inputs(2, 9, 20)
    inputs['weight'].requires_grad_()
    cpp_conv(**inputs).sum().backward()
    assert inputs['weight'].grad is not None
    assert inputs['x'].grad is None


@needs_build
def test_second_derivative_is_refused():
    inputs = conv_inputs(1, 9, 4)
    x = inputs['x'] = inputs['x'].detach().requires_grad_()
    loss = cpp_conv(**inputs).square().sum()
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match='conv_backward is not implement'):
        grad.sum().backward()


def operators(function) -> set[str]:
    """Names of the package's operators that ``function`` calls."""
    with torch.profiler.profile(acc_events=True) as profile:
        function()
    return {e.name for e in profile.events() if e.name.startswith('mmscope')}


def test_follows_the_scan_backend(monkeypatch):
    inputs = conv_inputs(1, 9, 4)
    for name in ('reference', 'torch'):
        assert not operators(
            lambda n=name: bidirectional_conv(**inputs, backend=n)
        )
        with use_backend(name):
            assert not operators(lambda: bidirectional_conv(**inputs))
        monkeypatch.setenv('MMSCOPE_SCAN_BACKEND', name)
        assert not operators(lambda: bidirectional_conv(**inputs))
    monkeypatch.setenv('MMSCOPE_SCAN_BACKEND', 'auto')
    called = operators(lambda: bidirectional_conv(**inputs))
    assert called == (
        set() if cpu_scan.NOT_BUILT else {'mmscope::conv_forward'}
    )


def test_without_the_build(monkeypatch):
    monkeypatch.setattr(cpu_scan, 'NOT_BUILT', 'not built: no compiler')
    monkeypatch.delenv('MMSCOPE_SCAN_BACKEND', raising=False)
    inputs = conv_inputs(1, 9, 4)
    assert torch.equal(bidirectional_conv(**inputs), plain_conv(**inputs))
    with pytest.raises(RuntimeError, match="'cpu' cannot run here: not built"):
        cpp_conv(**inputs)


def test_bad_arguments():
    inputs = conv_inputs(1, 9, 4)
    with pytest.raises(ValueError, match=r'weight must be .* \(2, 3, 4\)'):
        bidirectional_conv(**{**inputs, 'weight': inputs['weight'][:, :3]})
    with pytest.raises(ValueError, match=r'bias must be .* got \(2, 3\)'):
        bidirectional_conv(**{**inputs, 'bias': inputs['bias'][:, :3]})
    with pytest.raises(ValueError, match='must be one of .* got'):
        bidirectional_conv(**inputs, backend='cuda')


@pytest.mark.parametrize('backend', ['auto', 'torch'])
@pytest.mark.parametrize('name', ['x', 'weight', 'bias'])
@pytest.mark.parametrize('dtype', [torch.int64, torch.bool, torch.complex64])
def test_only_real_floating_point(backend, name, dtype):
    inputs = conv_inputs(1, 9, 4)
    inputs[name] = inputs[name].to(dtype)
    with pytest.raises(TypeError, match=f'{name} must be a .* got {dtype}'):
        bidirectional_conv(**inputs, backend=backend)


@pytest.mark.parametrize('backend', ['auto', 'torch'])
def test_devices_must_agree(backend):
    inputs = conv_inputs(1, 9, 4)
    inputs['weight'] = inputs['weight'].to('meta')
    with pytest.raises(ValueError, match='weight is on meta, but x on cpu'):
        bidirectional_conv(**inputs, backend=backend)
    inputs = {k: v.to('meta') for k, v in inputs.items()}
    assert bidirectional_conv(**inputs).is_meta

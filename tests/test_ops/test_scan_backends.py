"""Every backend against the float64 reference: outputs, all gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import (
    TOLERANCE,
    assert_matches_reference,
    one_direction,
    scan_inputs,
    weight_like,
    with_grads,
)

from mmscope.ops import bidirectional_scan, scan_backends, selective_scan

BACKENDS = sorted(scan_backends())
HALF = (torch.bfloat16, torch.float16)


@pytest.fixture(params=BACKENDS)
def backend(request):
    if reason := scan_backends()[request.param]:
        pytest.skip(f'{request.param} cannot run on this CPU: {reason}')
    return request.param


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize(
    ('batch', 'length'), [(1, 1), (3, 1), (1, 67), (2, 64), (2, 131)]
)
def test_bidirectional_matches_reference(backend, dtype, batch, length):
    inputs = scan_inputs(batch, length, dtype=dtype)
    assert_matches_reference(backend, inputs, importance=True)


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('length', [1, 67])
def test_selective_matches_reference(backend, dtype, length):
    inputs = one_direction(scan_inputs(3, length, dtype=dtype))
    assert_matches_reference(
        backend, inputs, selective_scan, delta_softplus=True
    )


@pytest.mark.parametrize('merge', [True, False])
@pytest.mark.parametrize('importance', [True, False])
@pytest.mark.parametrize(
    'without', [(), ('z',), ('D',), ('delta_bias',), ('z', 'D', 'delta_bias')]
)
def test_options_match_reference(backend, without, merge, importance):
    inputs = scan_inputs(2, 66, dtype=torch.float32, without=without)
    assert_matches_reference(
        backend, inputs, merge=merge, importance=importance
    )


def test_plain_step_sizes(backend):
    inputs = scan_inputs(2, 66)
    inputs['delta'] = inputs['delta'].abs() / 4
    inputs['delta_bias'] = inputs['delta_bias'].abs() / 4
    assert_matches_reference(backend, inputs, delta_softplus=False)


def test_realistic_width(backend):
    inputs = scan_inputs(3, 70, 40, 16, dtype=torch.float32)
    assert_matches_reference(backend, inputs, importance=True)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 140),
    dim=st.integers(1, 6),
    states=st.integers(1, 5),
    merge=st.booleans(),
    without=st.sets(st.sampled_from(['z', 'D', 'delta_bias'])),
    seed=st.integers(0, 1000),
)
@pytest.mark.parametrize('name', sorted(set(BACKENDS) - {'reference'}))
def test_any_shape(name, batch, length, dim, states, merge, without, seed):
    if reason := scan_backends()[name]:
        pytest.skip(f'{name} cannot run on this CPU: {reason}')
    inputs = scan_inputs(
        batch, length, dim, states, without=tuple(without), seed=seed
    )
    assert_matches_reference(name, inputs, merge=merge, importance=True)


def test_numerical_gradient(backend):
    names, inputs = zip(*scan_inputs(2, 5, 3, 2).items(), strict=True)

    def scan(*tensors):
        return bidirectional_scan(
            **dict(zip(names, tensors, strict=True)), backend=backend
        )

    leaves = [t.requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(scan, leaves)


def test_numerical_gradient_across_chunks(backend):
    inputs = scan_inputs(1, 67, 1, 2)
    delta = inputs.pop('delta').requires_grad_()

    def scan(tensor):
        return bidirectional_scan(**inputs, delta=tensor, backend=backend)

    assert torch.autograd.gradcheck(scan, [delta])


@pytest.mark.parametrize('name', ['u', 'A', 'D', 'z', 'delta_bias'])
def test_gradient_of_one_input_alone(backend, name):
    inputs = scan_inputs(2, 66)
    everything = with_grads(bidirectional_scan, inputs, backend=backend)
    inputs[name].requires_grad_()
    out = bidirectional_scan(**inputs, backend=backend)
    out.backward(weight_like(out))
    torch.testing.assert_close(
        inputs[name].grad, everything[f'grad of {name}']
    )
    assert all(v.grad is None for k, v in inputs.items() if k != name)


def test_later_tokens_do_not_reach_back(backend):
    inputs = scan_inputs(2, 70, without=('z',))
    before = bidirectional_scan(**inputs, merge=False, backend=backend)
    cut = 65
    for name in ('u', 'delta', 'B', 'C'):
        inputs[name][0, :, cut:] += 1
        inputs[name][1, :, :cut] += 1
    after = bidirectional_scan(**inputs, merge=False, backend=backend)
    assert torch.equal(before[0, :, :cut], after[0, :, :cut])
    assert torch.equal(before[1, :, cut:], after[1, :, cut:])
    assert not torch.isclose(before[0, :, cut:], after[0, :, cut:]).any()
    assert not torch.isclose(before[1, :, :cut], after[1, :, :cut]).any()


def test_images_do_not_depend_on_their_batch(backend):
    inputs = scan_inputs(3, 66, dtype=torch.float32)
    both = bidirectional_scan(**inputs, importance=True, backend=backend)
    for name in ('u', 'delta', 'B', 'C'):
        inputs[name] = inputs[name][:, 1:2]
    inputs['z'] = inputs['z'][1:2]
    alone = bidirectional_scan(**inputs, importance=True, backend=backend)
    for many, one in zip(both, alone, strict=True):
        torch.testing.assert_close(many[1:2], one)


def test_long_sequence_with_huge_steps(backend):
    inputs = scan_inputs(1, 1500, 4, 4, dtype=torch.float32)
    inputs['delta'] *= 60
    inputs['A'] *= 20
    values = with_grads(bidirectional_scan, inputs, backend=backend)
    for name, value in values.items():
        assert value.isfinite().all(), name
    assert_matches_reference(backend, inputs, importance=True)


def test_same_bits_twice(backend):
    inputs = scan_inputs(4, 130, 32, 16, dtype=torch.float32)
    first, second = (
        with_grads(
            bidirectional_scan, inputs, importance=True, backend=backend
        )
        for _ in range(2)
    )
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_gradients_do_not_change_the_output(backend):
    inputs = scan_inputs(2, 66)
    out = bidirectional_scan(**inputs, backend=backend)
    traced = with_grads(bidirectional_scan, inputs, backend=backend)
    assert torch.equal(out, traced['out'])


def test_inputs_are_left_alone(backend):
    inputs = scan_inputs(2, 66)
    copies = {k: v.clone() for k, v in inputs.items()}
    with_grads(bidirectional_scan, inputs, backend=backend)
    bidirectional_scan(**inputs, importance=True, backend=backend)
    for name, value in inputs.items():
        assert torch.equal(value, copies[name]), name


def test_strided_inputs(backend):
    inputs = scan_inputs(2, 66)
    expected = bidirectional_scan(**inputs, backend=backend)
    strided = {
        k: torch.stack([v, -v], dim=-1).flatten(-2)[..., ::2]
        for k, v in inputs.items()
    }
    assert not strided['z'].is_contiguous()
    out = bidirectional_scan(**strided, backend=backend)
    torch.testing.assert_close(out, expected)


def test_importance_is_detached(backend):
    inputs = scan_inputs()
    inputs['u'].requires_grad_()
    out, score = bidirectional_scan(**inputs, importance=True, backend=backend)
    assert out.requires_grad and not score.requires_grad
    assert score.dtype == torch.float32 and score.shape == (2, 9)


@pytest.mark.parametrize('dtype', HALF)
def test_importance_of_half_inputs_is_not_rounded(backend, dtype):
    inputs = scan_inputs(2, 66, dtype=dtype)
    exact = {k: v.double() for k, v in inputs.items()}
    _, score = bidirectional_scan(**inputs, importance=True, backend=backend)
    _, expected = bidirectional_scan(
        **exact, importance=True, backend='reference'
    )
    torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-5)


def test_mixed_dtypes_follow_u(backend):
    inputs = scan_inputs(2, 66, dtype=torch.float32)
    expected = with_grads(bidirectional_scan, inputs, backend=backend)
    inputs['A'], inputs['D'] = inputs['A'].double(), inputs['D'].double()
    values = with_grads(bidirectional_scan, inputs, backend=backend)
    assert torch.equal(values['out'], expected['out'])
    assert values['grad of A'].dtype == torch.float64
    assert values['grad of u'].dtype == torch.float32


def test_autocast_changes_nothing(backend):
    inputs = scan_inputs(2, 66, 16, 4, dtype=torch.float32)
    for name in ('u', 'delta', 'B', 'C', 'z'):
        inputs[name] = inputs[name].bfloat16()
    expected = with_grads(bidirectional_scan, inputs, backend=backend)
    with torch.autocast('cpu', torch.bfloat16):
        values = with_grads(bidirectional_scan, inputs, backend=backend)
    for name, value in values.items():
        assert torch.equal(value, expected[name]), name


def test_empty_batch(backend):
    inputs = scan_inputs(batch=0)
    values = with_grads(
        bidirectional_scan, inputs, importance=True, backend=backend
    )
    assert values['out'].shape == (0, 9, 5)
    assert values['importance'].shape == (0, 9)
    assert values['grad of u'].shape == (2, 0, 9, 5)
    assert not values['grad of A'].any()


def test_selective_output_is_contiguous(backend):
    out = selective_scan(**one_direction(scan_inputs()), backend=backend)
    assert out.is_contiguous() and out.shape == (2, 5, 9)


def test_inference_mode(backend):
    inputs = scan_inputs()
    expected = bidirectional_scan(**inputs, backend=backend)
    with torch.inference_mode():
        out = bidirectional_scan(**inputs, backend=backend)
    assert torch.equal(out, expected)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize(
    'name', ['u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias']
)
def test_what_is_not_finite_spreads_as_in_the_reference(backend, name, value):
    inputs = scan_inputs(2, 12, 5, 3, dtype=torch.float32)
    tensor = inputs[name][0]
    # one entry in the middle of an image, or of a weight
    tensor[tuple(size // 2 for size in tensor.shape)] = value
    actual, expected = (
        bidirectional_scan(**inputs, importance=True, backend=choice)
        for choice in (backend, 'reference')
    )
    # an infinitely small step, or decay, is a number
    assert value < 0 or not expected[0].isfinite().all()
    for got, exact in zip(actual, expected, strict=True):
        finite = exact.isfinite()
        torch.testing.assert_close(
            got[~finite], exact[~finite], equal_nan=True
        )
        torch.testing.assert_close(
            got[finite], exact[finite], rtol=1e-4, atol=1e-4
        )

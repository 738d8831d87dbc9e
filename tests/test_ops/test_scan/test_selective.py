"""``selective_scan`` as a stand-in for mamba_ssm's ``selective_scan_fn``.

The expected values are those of a loop over tokens that is written here, with
mamba_ssm's arguments, and takes everything per channel.
"""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from scan_cases import TOLERANCE, one_direction, scan_inputs, weight_like

from mmscope.ops import scan_backends, selective_scan

# Triton's among them where its interpreter is on, or on a GPU
BACKENDS = [name for name, why in scan_backends().items() if why is None]
NARROW = ('triton', 'mamba_ssm')  # no float64
DIM, STATES = 6, 3


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def per_channel(x, u):
    """B or C of any shape, as (B, Dim, S, L)."""
    batch, dim, length = u.shape
    if x.dim() == 2:
        return x[None, :, :, None].expand(batch, dim, -1, length)
    if x.dim() == 3:
        x = x[:, None]
    return x.repeat_interleave(dim // x.shape[1], dim=1)


def loop(
    u,
    delta,
    A,
    B,
    C,
    D=None,
    z=None,
    delta_bias=None,
    delta_softplus=False,
    initial_state=None,
):
    """Outputs and the last state, token by token."""
    B, C = per_channel(B, u), per_channel(C, u)
    dt = delta if delta_bias is None else delta + delta_bias[:, None]
    dt = F.softplus(dt) if delta_softplus else dt
    h = torch.zeros_like(B[..., 0]) if initial_state is None else initial_state
    outputs = []
    for t in range(u.shape[2]):
        step = dt[:, :, t, None]
        h = torch.exp(step * A) * h + step * B[..., t] * u[:, :, t, None]
        outputs.append((h * C[..., t]).sum(-1))
    y = torch.stack(outputs, dim=2)
    y = y if D is None else y + D[:, None] * u
    return y if z is None else y * F.silu(z), h


def inputs_of(length=9, shape_b='B S L', shape_c='B S L', state=False):
    """Arguments; B and C of a shape as in 'B 2 S L' or 'Dim S'."""
    inputs = one_direction(scan_inputs(2, length, DIM, STATES))
    sizes = dict(B=2, Dim=DIM, S=STATES, L=length)
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for name, shape in (('B', shape_b), ('C', shape_c)):
        inputs[name] = normal(*(sizes.get(n) or int(n) for n in shape.split()))
    if state:
        inputs['initial_state'] = normal(2, DIM, STATES)
    return inputs


def gradients(outputs, leaves):
    total = sum((out * weight_like(out)).sum() for out in outputs)
    return torch.autograd.grad(total, list(leaves.values()))


def widest(backend):
    return torch.float32 if backend in NARROW else torch.float64


def check(backend, inputs, dtype=None, **options):
    """Output, last state and all gradients against the loop."""
    dtype = dtype or widest(backend)
    inputs = {k: v.to(dtype) for k, v in inputs.items()}
    leaves = {k: v.requires_grad_() for k, v in inputs.items()}
    exact = {k: v.detach().double() for k, v in inputs.items()}
    exact = {k: v.requires_grad_() for k, v in exact.items()}
    expected = loop(**exact, **options)
    actual = selective_scan(
        **leaves, **options, return_last_state=True, backend=backend
    )
    assert actual[0].dtype == dtype
    assert actual[1].dtype == torch.promote_types(dtype, torch.float32)
    alone = selective_scan(**leaves, **options, backend=backend)
    names = ['out', 'last state', 'out alone', *leaves]
    grads = gradients(actual, leaves), gradients(expected, exact)
    for name, value, right in zip(
        names,
        (*actual, alone, *grads[0]),
        (*expected, expected[0], *grads[1]),
        strict=True,
    ):
        error = (value.double() - right).abs().max()
        allowed = 2 * TOLERANCE[dtype] * right.abs().max()
        assert error <= allowed, f'{name}: {error}, allowed {allowed}'


SHAPES = ('B S L', 'B 1 S L', 'B 2 S L', 'B 3 S L', 'Dim S')


@pytest.mark.parametrize('shape_c', SHAPES)
@pytest.mark.parametrize('shape_b', SHAPES)
def test_every_shape_of_the_parameters(backend, shape_b, shape_c):
    check(backend, inputs_of(9, shape_b, shape_c), delta_softplus=True)


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('length', [1, 67])
@pytest.mark.parametrize('state', [False, True])
def test_first_and_last_state(backend, dtype, length, state):
    if dtype == torch.float64 and backend in NARROW:
        pytest.skip(f'{backend} has no float64')
    inputs = inputs_of(length, 'B 2 S L', state=state)
    check(backend, inputs, dtype, delta_softplus=True)


def test_plain_step_sizes(backend):
    inputs = inputs_of(9, state=True)
    for name in ('delta', 'delta_bias'):
        inputs[name] = inputs[name].abs() / 4
    check(backend, inputs)


@pytest.mark.parametrize('name', ['D', 'z', 'delta_bias'])
def test_without(backend, name):
    inputs = inputs_of(9, 'B 2 S L', state=True)
    del inputs[name]
    check(backend, inputs, delta_softplus=True)


def test_states_of_any_size_pass(backend):
    """The state is exact: nothing decays where it goes in and comes out."""
    dtype = torch.float32
    inputs = inputs_of(1, state=True)
    inputs = {k: v.to(dtype) for k, v in inputs.items()}
    inputs['A'] *= 1e4
    inputs['delta'] = torch.zeros_like(inputs['delta'])
    del inputs['delta_bias']
    scale = 10.0 ** torch.arange(-9, 9, dtype=dtype)
    inputs['initial_state'] *= scale.view(DIM, STATES)
    _, last = selective_scan(**inputs, return_last_state=True, backend=backend)
    torch.testing.assert_close(
        last, inputs['initial_state'], atol=0, rtol=3e-6
    )


@pytest.mark.parametrize('cut', [1, 40, 66])
def test_a_sequence_in_two_pieces(backend, cut):
    inputs = inputs_of(67, 'B 2 S L')
    inputs = {k: v.to(widest(backend)) for k, v in inputs.items()}
    options = dict(
        delta_softplus=True, return_last_state=True, backend=backend
    )
    whole, last = selective_scan(**inputs, **options)
    pieces, state = [], None
    for span in (slice(0, cut), slice(cut, 67)):
        piece = {
            k: v[..., span] if k in ('u', 'delta', 'B', 'C', 'z') else v
            for k, v in inputs.items()
        }
        out, state = selective_scan(**piece, **options, initial_state=state)
        pieces.append(out)
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole)
    torch.testing.assert_close(state, last)


def test_arguments_are_those_of_mamba_ssm():
    """Names, order and defaults, as far as theirs go."""
    signature = inspect.signature(selective_scan)
    ours = [
        (name, parameter.default)
        for name, parameter in signature.parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    none = inspect.Parameter.empty
    assert ours == [
        *((name, none) for name in ('u', 'delta', 'A', 'B', 'C')),
        *((name, None) for name in ('D', 'z', 'delta_bias')),
        ('delta_softplus', False),
        ('return_last_state', False),
    ]


def test_one_group_is_one_call_without_copies(monkeypatch):
    """The usual case costs what it did."""
    from mmscope.ops.scan import entry

    seen = []

    def core(inputs, options):
        seen.append(inputs)
        return inputs.u, None

    monkeypatch.setattr(entry, 'resolve', lambda u, backend: core)
    inputs = one_direction(scan_inputs(2, 9, dtype=torch.bfloat16))
    selective_scan(**inputs)
    (given,) = seen
    for name in ('u', 'delta', 'B', 'C', 'z'):
        passed = getattr(given, name)
        assert passed.data_ptr() == inputs[name].data_ptr(), name
        assert passed.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ('name', 'shape', 'message'),
    [
        ('B', (2,), r'B must be \(Dim, S\) or \(B, S, L\) or .* got \(2,\)'),
        ('B', (2, 4, 3, 9), r'has 4 groups, which must divide the 6 channels'),
        ('C', (2, 4, 3, 9), r'has 4 groups, which must divide the 6 channels'),
        ('C', (5, 3), r'C must be \(Dim, S\) = \(6, 3\), got \(5, 3\)'),
        ('initial_state', (2, 6, 2), r'initial_state must be \(B, Dim, S\)'),
    ],
)
def test_wrong_shapes_are_named(name, shape, message):
    inputs = inputs_of(9, state=True)
    inputs[name] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        selective_scan(**inputs)


def test_complex_weights_are_refused():
    inputs = inputs_of()
    inputs['A'] = inputs['A'].to(torch.complex128)
    with pytest.raises(TypeError, match='A must be a floating point tensor'):
        selective_scan(**inputs)


def test_empty_batch(backend):
    inputs = inputs_of(9, 'B 2 S L', state=True)
    batched = ('u', 'delta', 'B', 'C', 'z', 'initial_state')
    inputs.update({k: inputs[k][:0] for k in batched})
    inputs = {k: v.to(widest(backend)) for k, v in inputs.items()}
    out, last = selective_scan(
        **inputs, return_last_state=True, backend=backend
    )
    assert out.shape == (0, DIM, 9) and last.shape == (0, DIM, STATES)

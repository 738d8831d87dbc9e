"""Operators under torch's transforms: right, or refused."""

from __future__ import annotations

import pytest
import torch
from scan_cases import one_direction, scan_inputs
from torch.fx.experimental.proxy_tensor import make_fx

from mmscope.ops import (
    bidirectional_conv,
    bidirectional_scan,
    rms_norm,
    scan_backends,
    selective_scan,
    use_backend,
)

BACKENDS = [name for name, why in scan_backends().items() if why is None]
OPAQUE = sorted({*BACKENDS} - {'reference'})
NAMES = ('u', 'delta', 'A', 'B', 'C')


@pytest.fixture(params=BACKENDS)
def backend(request):
    with use_backend(request.param):
        yield request.param


@pytest.fixture
def auto(monkeypatch):
    monkeypatch.delenv('MMSCOPE_SCAN_BACKEND', raising=False)


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def scan(*tensors):
    return bidirectional_scan(*tensors)


TAPS, SHIFT, SCALE = normal(2, 6, 4), normal(2, 6), normal(6)


def conv(x):
    return bidirectional_conv(x, TAPS, SHIFT)


def norm(x):
    return rms_norm(x, SCALE, 1e-5)


def gradient(function, tensors):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    return torch.autograd.grad(function(*leaves).square().sum(), leaves)


class Scan(torch.nn.Module):
    def forward(self, *tensors):
        return bidirectional_scan(*tensors)


def traced_without_gradients(how, tensors):
    """A graph of the scan, made where nothing asked for a gradient."""
    with torch.no_grad():
        if how == 'make_fx':
            return make_fx(scan)(*tensors)
        if how == 'jit.trace':
            return torch.jit.trace(scan, tensors)
        program = torch.export.export(
            Scan(), tensors, strict=how == 'strict export'
        )
        return program.module()


@pytest.mark.parametrize(
    'how', ['make_fx', 'jit.trace', 'export', 'strict export']
)
@pytest.mark.filterwarnings('ignore:.*torch.jit:DeprecationWarning')
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('name', OPAQUE)
def test_backward_through_a_graph_traced_without_gradients(name, how):
    tensors = tuple(scan_inputs(2, 67)[key] for key in NAMES)
    with use_backend(name):
        graph = traced_without_gradients(how, tensors)
        expected = gradient(scan, tensors)
    for grad, eager in zip(gradient(graph, tensors), expected, strict=True):
        torch.testing.assert_close(grad, eager)


@pytest.mark.filterwarnings('ignore:There is a performance drop')
def test_backward_through_vmap(backend):
    inputs = one_direction(scan_inputs(1, 67))
    many = normal(3, *inputs.pop('u').shape).requires_grad_()

    def one(u):
        return selective_scan(u, **inputs, delta_softplus=True)

    (grad,) = torch.autograd.grad(torch.vmap(one)(many).sum(), many)
    for u, part in zip(many.detach(), grad, strict=True):
        u.requires_grad_()
        (expected,) = torch.autograd.grad(one(u).sum(), u)
        torch.testing.assert_close(part, expected)


CASES = {
    'scan': (scan, tuple(scan_inputs(2, 9).values())),
    'conv': (conv, (normal(2, 9, 6),)),
    'norm': (norm, (normal(2, 9, 6),)),
}


@pytest.mark.parametrize('operator', CASES)
@pytest.mark.usefixtures('auto')
def test_forward_mode_is_right(operator):
    function, primals = CASES[operator]
    tangents = tuple(normal(*t.shape, seed=5) for t in primals)
    _, tangent = torch.func.jvp(function, primals, tangents)
    step = 1e-6
    ahead, back = (
        function(
            *(p + sign * t for p, t in zip(primals, tangents, strict=True))
        )
        for sign in (step, -step)
    )
    numeric = (ahead - back) / (2 * step)
    torch.testing.assert_close(tangent, numeric, rtol=1e-5, atol=1e-6)
    assert tangent.abs().max() > 0.1


@pytest.mark.usefixtures('auto')
def test_forward_mode_under_vmap_and_dual_levels():
    x, tangent = normal(2, 9, 6), normal(2, 9, 6, seed=5)
    _, expected = torch.func.jvp(conv, (x,), (tangent,))
    _, nested = torch.func.jvp(
        torch.vmap(lambda one: conv(one[None])[:, 0], out_dims=1),
        (x,),
        (tangent,),
    )
    torch.testing.assert_close(nested, expected)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        out = torch.autograd.forward_ad.unpack_dual(conv(dual))
    torch.testing.assert_close(out.tangent, expected)


@pytest.mark.parametrize('operator', CASES)
@pytest.mark.parametrize('name', OPAQUE)
def test_forward_mode_is_refused_by_name(operator, name):
    if operator != 'scan' and name == 'torch':
        pytest.skip('plain torch has every derivative of the others')
    function, primals = CASES[operator]
    with (
        use_backend(name),
        pytest.raises(RuntimeError, match=f'{name!r} .* forward-mode'),
    ):
        torch.func.jvp(function, primals, primals)


@pytest.mark.parametrize('name', OPAQUE)
def test_forward_mode_of_an_exported_program_is_refused(name):
    """Its operators are fixed: no other backend can serve."""
    tensors = tuple(scan_inputs(1, 3)[key] for key in NAMES)
    with use_backend(name):
        program = torch.export.export(Scan(), tensors).module()
    with pytest.raises(RuntimeError, match='has no forward-mode derivative'):
        torch.func.jvp(program, tensors, tensors)


@pytest.mark.skipif('cpu' not in BACKENDS, reason='no C++ operators')
def test_forward_mode_of_operators_in_cpp_is_refused():
    x, weight = normal(2, 9, 6), normal(6)
    for call in (
        lambda x: torch.ops.mmscope.rms_norm_forward(x, weight, 1e-5)[0],
        lambda x: torch.ops.mmscope.conv_forward(x, TAPS, SHIFT),
    ):
        with pytest.raises(RuntimeError, match='has no forward-mode'):
            torch.func.jvp(call, (x,), (x,))
        with torch.inference_mode():
            assert call(x).isfinite().all()


@pytest.mark.usefixtures('auto')
def test_forward_mode_under_compile():
    function, primals = CASES['scan']

    def derivative(*primals):
        return torch.func.jvp(function, primals, primals)[1]

    torch.compiler.reset()
    compiled = torch.compile(derivative, backend='eager')
    torch.testing.assert_close(compiled(*primals), derivative(*primals))


def value_and_gradients(function, tensors):
    return function(*tensors), *gradient(function, tensors)


@pytest.mark.parametrize('operator', CASES)
@pytest.mark.parametrize('name', OPAQUE)
def test_compiles_for_any_length_without_a_graph_break(operator, name):
    function, tensors = CASES[operator]
    torch.compiler.reset()
    compiled = torch.compile(
        function, fullgraph=True, dynamic=True, backend='aot_eager'
    )
    longer = [
        torch.cat([t, t], dim=-2) if 9 in t.shape else t for t in tensors
    ]
    with use_backend(name):
        for given in (tensors, longer):
            for value, expected in zip(
                value_and_gradients(compiled, given),
                value_and_gradients(function, given),
                strict=True,
            ):
                torch.testing.assert_close(value, expected)


class Layer(torch.nn.Module):
    """All three operators on any number of tokens and images."""

    def __init__(self):
        super().__init__()
        for name, tensor in dict(taps=TAPS, shift=SHIFT, scale=SCALE).items():
            self.register_buffer(name, tensor)

    def forward(self, x):
        x = rms_norm(x, self.scale, 1e-5)
        u = bidirectional_conv(x, self.taps, self.shift)
        A = -torch.ones(2, 6, 3, dtype=x.dtype)
        parts = u[..., :3]
        return bidirectional_scan(u, u, A, parts, parts, importance=True)


@pytest.mark.parametrize('strict', [True, False])
@pytest.mark.parametrize('name', OPAQUE)
def test_exports_with_any_batch_and_length(name, strict):
    batch, length = (torch.export.Dim(n, min=1) for n in ('batch', 'length'))
    with use_backend(name):
        program = torch.export.export(
            Layer(),
            (normal(2, 9, 6),),
            dynamic_shapes=({0: batch, 1: length},),
            strict=strict,
        )
    called = [
        str(node.target)
        for node in program.graph.nodes
        if 'mmscope' in str(node.target)
    ]
    assert sum('scan' in target for target in called) == 1
    assert len(called) == (3 if name in ('cpu', 'triton') else 1)
    with use_backend(name):
        for sizes in ((2, 9, 6), (3, 70, 6), (1, 1, 6)):
            x = normal(*sizes, seed=3)
            for value, expected in zip(
                program.module()(x), Layer()(x), strict=True
            ):
                torch.testing.assert_close(value, expected)


def test_the_reference_exports_as_torchs_own_operators():
    x = normal(1, 3, 6)
    with use_backend('reference'):
        program = torch.export.export(Layer(), (x,))
        expected = Layer()(x)
    assert 'mmscope' not in str(program.graph)
    torch.testing.assert_close(program.module()(x), expected)


SMALL = {
    'scan': (scan, tuple(scan_inputs(1, 3, 2, 2).values())),
    'conv': (conv, (normal(1, 3, 6),)),
    'norm': (norm, (normal(1, 3, 6),)),
}


@pytest.mark.parametrize('operator', CASES)
def test_second_derivatives_in_plain_torch(operator):
    function, tensors = SMALL[operator]
    leaves = [t.clone().requires_grad_() for t in tensors]
    name = 'reference' if operator == 'scan' else 'torch'
    with use_backend(name):
        assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize('operator', CASES)
def test_gradients_of_every_sample_in_plain_torch(operator):
    function, tensors = SMALL[operator]
    first, rest = tensors[0], tensors[1:]

    def loss(x):
        return function(x, *rest).square().sum()

    many = torch.stack([first, 2 * first, first + 1])
    name = 'reference' if operator == 'scan' else 'torch'
    with use_backend(name):
        grads = torch.vmap(torch.func.grad(loss))(many)
        for x, grad in zip(many, grads, strict=True):
            x = x.clone().requires_grad_()
            (expected,) = torch.autograd.grad(loss(x), x)
            torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize('operator', CASES)
@pytest.mark.parametrize('name', OPAQUE)
def test_torch_refuses_functional_gradients_of_kernels(operator, name):
    if operator != 'scan' and name == 'torch':
        pytest.skip('plain torch has them')
    function, tensors = SMALL[operator]

    def loss(x):
        return function(x, *tensors[1:]).sum()

    with use_backend(name), pytest.raises(RuntimeError, match='setup_context'):
        torch.func.grad(loss)(tensors[0])


@pytest.mark.filterwarnings('ignore:There is a performance drop')
@pytest.mark.parametrize('operator', CASES)
def test_vmap_of_values(operator, backend):
    function, tensors = SMALL[operator]
    many = torch.stack([tensors[0], 2 * tensors[0]])
    out = torch.vmap(lambda x: function(x, *tensors[1:]))(many)
    for x, value in zip(many, out, strict=True):
        torch.testing.assert_close(value, function(x, *tensors[1:]))

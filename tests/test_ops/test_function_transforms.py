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


@pytest.mark.usefixtures('auto')
def test_forward_mode_under_compile():
    function, primals = CASES['scan']

    def derivative(*primals):
        return torch.func.jvp(function, primals, primals)[1]

    torch.compiler.reset()
    compiled = torch.compile(derivative, backend='eager')
    torch.testing.assert_close(compiled(*primals), derivative(*primals))

"""Backbones as torch.export, torch.jit.trace and torch.compile take them."""

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from mmscope.models import MambaScopeBackbone, VisionMambaBackbone

TINY = dict(
    arch=dict(embed_dims=32, num_layers=2, d_state=4),
    img_size=(64, 96),
    out_indices=(0, 1),
)
HEAD = dict(type='mmscope.MultiLabelExitHead', num_classes=5)


def make(name: str) -> nn.Module:
    if name == 'vim':
        return VisionMambaBackbone(**TINY).eval()
    return MambaScopeBackbone(
        **TINY, alpha=0.5, eta=1.0, exit_head=HEAD
    ).eval()


def assert_same(program: nn.Module, net: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(program(images), net(images))


@pytest.mark.parametrize(
    ('name', 'strict'),
    [
        ('vim', False),
        ('vim', True),
        ('scope', False),
        pytest.param('scope', True, marks=pytest.mark.slow),
    ],
)
def test_export_with_any_batch_and_size(name, strict) -> None:
    net = make(name)
    side = net.size_divisor
    height, width = Dim('height', max=64), Dim('width', max=64)
    with torch.no_grad():
        program = export(
            net,
            (torch.rand(2, 3, 64, 96),),  # the size that it is built for
            dynamic_shapes=(
                {0: Dim('batch', max=64), 2: side * height, 3: side * width},
            ),
            strict=strict,
        ).module()
    for shape in ((2, 64, 96), (5, 128, 96), (1, 64, 160)):
        assert_same(program, net, torch.rand(shape[0], 3, *shape[1:]))
    # weights are inputs of the program, not constants in it
    assert {n for n, _ in program.named_parameters()} == {
        n for n, _ in net.named_parameters()
    }


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.filterwarnings('ignore:`torch.jit:DeprecationWarning')
@pytest.mark.parametrize('how', ['export', 'trace'])
def test_backward_through_what_was_made_without_gradients(how) -> None:
    net, images = make('vim'), torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        if how == 'export':
            program = export(net, (images,)).module()
        else:
            program = torch.jit.trace(net, images)
    for model in (net, program):
        sum(m.square().sum() for m in model(images)).backward()
    own = dict(net.named_parameters())
    if how == 'export':  # a program has parameters of its own
        for name, parameter in program.named_parameters():
            torch.testing.assert_close(parameter.grad, own[name].grad)
    else:  # a trace shares them: each gradient came in twice
        traced = [p.grad.clone() for p in net.parameters()]
        net.zero_grad()
        sum(m.square().sum() for m in net(images)).backward()
        for parameter, twice in zip(net.parameters(), traced, strict=True):
            torch.testing.assert_close(twice, 2 * parameter.grad)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.filterwarnings('ignore:`torch.jit:DeprecationWarning')
@pytest.mark.parametrize('warm', [False, True])
@pytest.mark.parametrize('name', ['vim', 'scope'])
def test_trace_of_a_cold_and_of_a_warm_model(name, warm) -> None:
    net, images = make(name), torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        if warm:
            net(images)
        traced = torch.jit.trace(net, images)
    assert_same(traced, net, torch.rand(2, 3, 64, 96))
    other = make(name)
    traced.load_state_dict(other.state_dict())
    assert_same(traced, other, images)


def test_backbone_of_compiled_blocks() -> None:
    """As the documentation compiles them: names of weights stay."""
    net, images = make('scope'), torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        expected = net(images)
        names = list(net.state_dict())
        torch.compiler.reset()
        for block in net.layers:
            block.compile(fullgraph=True, backend='aot_eager')
        torch.testing.assert_close(net(images), expected)
    assert list(net.state_dict()) == names

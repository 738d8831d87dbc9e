"""Layers of the encoder: precision and compilation of one block."""

import pytest
import torch

from mmscope.models.layers import RMSNorm, ScoreMetric, VimBlock
from mmscope.ops import use_backend
from mmscope.ops.scan import cpu as cpu_scan


@pytest.fixture
def block() -> VimBlock:
    torch.manual_seed(0)
    block = VimBlock(32, d_state=4)
    block.mixer.reset_parameters(depth=4)
    return block


def values_and_grads(block, forward, x) -> list[torch.Tensor]:
    block.zero_grad(set_to_none=True)
    x = x.detach().clone().requires_grad_()
    stream, out, importance = forward(x, score=ScoreMetric())
    out = stream + out
    out.square().sum().backward()
    grads = [p.grad for p in block.parameters()]
    return [out.detach(), importance, x.grad, *grads]


def test_reference_backend_gives_the_same_gradients(block) -> None:
    x = torch.randn(2, 25, 32)
    expected = values_and_grads(block, block, x)
    with use_backend('reference'):
        actual = values_and_grads(block, block, x)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('built', [True, False])
@pytest.mark.parametrize('autocast', [False, True])
def test_block_compiles_without_graph_breaks(
    block, monkeypatch, built, autocast
) -> None:
    monkeypatch.delenv('MMSCOPE_SCAN_BACKEND', raising=False)
    if not built:
        monkeypatch.setattr(cpu_scan, 'NOT_BUILT', 'not built')
    elif cpu_scan.NOT_BUILT:
        pytest.skip(cpu_scan.NOT_BUILT)
    torch.compiler.reset()
    compiled = torch.compile(block, fullgraph=True, backend='aot_eager')
    for length in (25, 26):
        x = torch.randn(2, length, 32)
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            expected = values_and_grads(block, block, x)
            actual = values_and_grads(block, compiled, x)
        if not autocast:
            torch.testing.assert_close(actual, expected)
        # torch 2.8 rounds to bfloat16 in another order
        for found, wanted in zip(actual, expected, strict=True):
            assert (found - wanted).norm() <= 2**-7 * wanted.norm()


def operators(graph: torch.fx.GraphModule) -> set[str]:
    """Names of the package's operators in a graph."""
    names = {str(node.target) for node in graph.graph.nodes}
    return {name for name in names if name.startswith('mmscope')}


@pytest.mark.parametrize('name', ['torch', 'reference'])
def test_compiled_block_follows_use_backend(block, name) -> None:
    graphs = []

    def keep(graph, example_inputs):
        graphs.append(operators(graph))
        return graph

    torch.compiler.reset()
    compiled = torch.compile(block, fullgraph=True, backend=keep)
    x = torch.randn(2, 5, 32)
    compiled(x)
    with use_backend(name):
        expected, actual = block(x), compiled(x)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    wanted = {'torch': {'mmscope.torch_scan_forward.default'}}
    assert graphs[1:] == [wanted.get(name, set())]
    with use_backend(name):
        compiled(x)
    compiled(x)
    assert len(graphs) == 2


def test_autocast_stays_near_full_precision(block) -> None:
    x = torch.randn(2, 25, 32)
    exact = values_and_grads(block, block, x)
    with torch.autocast('cpu', torch.bfloat16):
        rounded = values_and_grads(block, block, x)
    for value, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32
        assert (value - other).abs().max() < 0.03 * value.abs().max()


def test_float64_is_kept(block) -> None:
    x = torch.randn(2, 25, 32, dtype=torch.float64)
    _, out, _ = block(x.float())
    stream, exact, _ = block.double()(x)
    assert stream.dtype == torch.float64
    assert exact.dtype == torch.float64
    torch.testing.assert_close(out, exact.float(), rtol=1e-5, atol=1e-5)


def test_norm_returns_the_weights_precision() -> None:
    norm = RMSNorm(8).bfloat16()
    assert norm(torch.randn(2, 3, 8)).dtype == torch.bfloat16

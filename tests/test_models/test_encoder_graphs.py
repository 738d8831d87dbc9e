"""Stages run by graphs: batches, lengths, results; on CPU uncaptured."""

import pytest
import torch

from mmscope.models.encoder_graphs import EncoderGraphs, cuda_graphs
from mmscope.models.vim import Encoded

NEEDS_GPU = pytest.mark.skipif(
    not torch.cuda.is_available(), reason='CUDA graphs need a GPU'
)


def images(batch: int, seed: int = 0, size: tuple = (64, 96)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, *size, generator=generator)


@torch.no_grad()
def test_every_batch_gives_the_same_maps(make_vim) -> None:
    net = make_vim().eval()
    expected = {n: net(images(n)) for n in (1, 2, 3, 4, 9)}
    with cuda_graphs(net, (4, 1, 2), capture=False) as graphs:
        for n, maps in expected.items():
            torch.testing.assert_close(net(images(n)), maps)
        buckets = [key[0] for key in graphs.captured]
        # 3 is filled up to 4, and 9 is cut in 4, 4 and 1
        assert buckets == [1, 2, 4]
        net(images(1, size=(64, 64)))
        assert [key[1] for key in graphs.captured] == [25, 25, 25, 17]


@torch.no_grad()
def test_each_stage_has_graphs_of_its_own(make_net) -> None:
    net = make_net(eta=0.5).eval()
    x = images(5)
    confidence = net.scope(x, eta=0).confidence
    eta = confidence.median().item()
    expected = net.scope(x, eta=eta)
    assert 0 < expected.exited.sum() < 5
    with cuda_graphs(net, (2, 8), capture=False) as graphs:
        for _ in range(2):
            actual = net.scope(x, eta=eta)
            torch.testing.assert_close(
                actual._asdict(), expected._asdict(), equal_nan=True
            )
        scored = [key[-1][0] is not None for key in graphs.captured]
        assert scored == [True, False]


def test_results_are_not_written_over() -> None:
    memory = torch.zeros(2, 3, 4)

    def run(x: torch.Tensor, score: None) -> Encoded:
        out = memory[: len(x)].copy_(x)  # as a graph does
        return Encoded((out,), out, out[..., 0])

    graphs = EncoderGraphs((1, 2), capture=False)
    first = graphs(run, torch.ones(2, 3, 4), None)
    graphs(run, torch.zeros(2, 3, 4), None)
    for tensor in (*first.levels, first.last, first.importance):
        assert (tensor == 1).all()


def test_filling_does_not_change_the_input() -> None:
    graphs, x = EncoderGraphs((4,), capture=False), torch.ones(3, 5, 2)
    seen = []

    def run(tokens: torch.Tensor) -> Encoded:
        seen.append(tokens.shape)
        tokens.mul_(2)
        return Encoded((), tokens, None)

    for _ in range(2):
        assert (graphs(run, x).last == 2).all()
    assert (x == 1).all()
    assert seen == [(4, 5, 2)] * 2
    assert len(graphs.captured) == 1
    assert graphs(run, x.double()).last.dtype == torch.float64


def test_not_with_gradients_nor_in_training(make_vim) -> None:
    net = make_vim()
    with cuda_graphs(net, capture=False) as graphs:
        net.eval()(images(1))[0].sum().backward()
        with torch.no_grad():
            net.train()(images(1))
        assert not graphs.captured
        with torch.no_grad():
            net.eval()(images(1))
        assert graphs.captured


def test_inference_mode_and_autocast(make_vim) -> None:
    net = make_vim().eval()
    with torch.no_grad():
        expected = net(images(2))
    with cuda_graphs(net, (2,), capture=False) as graphs:
        with torch.inference_mode():
            torch.testing.assert_close(net(images(2)), expected)
        with torch.no_grad():
            torch.testing.assert_close(net(images(2)), expected)
            assert len(graphs.captured) == 1
            with torch.autocast('cpu', torch.bfloat16):
                net(images(2))
            assert len(graphs.captured) == 2
            torch.testing.assert_close(net(images(2)), expected)


def test_changed_weights_are_read(make_vim) -> None:
    net = make_vim().eval()
    with torch.no_grad(), cuda_graphs(net, capture=False):
        net(images(1))
        for parameter in net.parameters():
            parameter.mul_(1.1)
        maps = net(images(1))
    with torch.no_grad():
        torch.testing.assert_close(maps, net(images(1)))


def test_the_block_ends(make_vim) -> None:
    net = make_vim()
    with pytest.raises(KeyError), cuda_graphs(net, capture=False):
        raise KeyError
    assert net.graphs is None


def test_without_a_gpu(make_vim) -> None:
    with (
        pytest.raises(RuntimeError, match='backbone is on cpu; move it there'),
        cuda_graphs(make_vim()),
    ):
        pass
    for sizes in ((), (0, 1)):
        with pytest.raises(ValueError, match='positive numbers, got'):
            EncoderGraphs(sizes, capture=False)


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize('autocast', [False, True])
def test_captured(make_net, autocast) -> None:
    net = make_net(eta=1.0).cuda()

    @torch.no_grad()
    def run(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.autocast('cuda', torch.bfloat16, enabled=autocast):
            return net(x)

    with cuda_graphs(net, (1, 4)) as graphs:
        for n in (1, 3, 4, 3):
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter.mul_(1.01)
            x = images(n, seed=n).cuda()
            captured = run(x)
            net.graphs = None
            torch.testing.assert_close(captured, run(x), rtol=1e-3, atol=1e-3)
            net.graphs = graphs
        # two stages, two batch sizes
        assert len(graphs.captured) == 4

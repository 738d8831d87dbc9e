"""Graphs of the blocks: right whatever happens to the model around them.

Without a GPU a graph is what torch traces of the blocks: like a CUDA graph it
repeats operations on tensors that lie where they lay, whatever became of the
modules.
"""

import copy
import gc
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from mmscope.models import (
    MambaScopeBackbone,
    VisionMambaBackbone,
    block_graphs,
    exit_settings,
)
from mmscope.models.block_graphs import BlockGraphs, Recorded, rounded_rows
from mmscope.models.vision_transformer import FusedVisionTransformer
from mmscope.ops import use_backend

SMALL = dict(
    arch=dict(embed_dims=32, num_layers=3, d_state=4),
    img_size=64,
    out_indices=(0, 2),
)
ON_GPU = torch.cuda.is_available()
DEVICE = 'cuda' if ON_GPU else 'cpu'


def record_traced(run: Callable, x: Tensor) -> Recorded:
    """A graph made by torch's tracer."""
    graph = make_fx(lambda x: run(x))(x)
    for name, tensor in [*graph.named_parameters(), *graph.named_buffers()]:
        kept = torch.empty(0, dtype=tensor.dtype).set_(tensor.detach())
        delattr(graph, name)
        graph.register_buffer(name, kept)  # where it lies now
    outputs = run(x)

    def replay() -> None:
        for out, new in zip(outputs, graph(x), strict=True):
            if out is not None:
                out.copy_(new)

    return Recorded(replay, x, outputs)


class Graphs(BlockGraphs):
    """Graphs on the device of the tests, and how many were made."""

    made = 0

    def recordable(self, x: Tensor) -> bool:
        return super().recordable(x) if ON_GPU else True

    def recorder(self, x: Tensor) -> Callable:
        self.made += 1
        return super().recorder(x) if ON_GPU else record_traced


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make(kind: type = VisionMambaBackbone, **options) -> nn.Module:
    net = kind(**SMALL, **options, cuda_graphs=True).to(DEVICE).eval()
    net.block_graphs = Graphs()
    return net


def images(number: int = 2, side: int = 64) -> Tensor:
    return torch.rand(number, 3, side, side, device=DEVICE)


def eager(net: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    graphs, net.block_graphs = net.block_graphs, None
    try:
        with torch.no_grad():
            return net(x)
    finally:
        net.block_graphs = graphs


def replayed(net: nn.Module, x: Tensor, times: int = 3) -> tuple[Tensor, ...]:
    with torch.no_grad():
        for _ in range(times):
            out = net(x)
    return out


def assert_same(actual, expected, **tolerance):
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def test_a_shape_that_comes_again_is_replayed():
    net, x = make(), images()
    for _ in range(4):
        x = torch.rand_like(x)
        assert_same(replayed(net, x, 1), eager(net, x))
    assert net.block_graphs.made == len(net.block_graphs) == 1


def test_a_shape_seen_once_makes_no_graph():
    net = make()
    for side in (32, 48, 64, 80):
        replayed(net, images(1, side), times=1)
    assert net.block_graphs.made == 0


def test_results_are_not_overwritten_by_the_next():
    net, (x, y) = make(out_type='raw'), (images(), images())
    first = replayed(net, x)
    kept = [out.clone() for out in first]
    replayed(net, y)
    assert_same(first, kept)


@pytest.mark.parametrize(
    'number, rows', [(1, 1), (8, 8), (9, 16), (16, 16), (63, 64)]
)
def test_rows_of_a_batch(number, rows):
    assert rounded_rows(number) == rows


def test_batches_that_exits_leave_share_a_graph():
    net = make()
    for number in (16, 9, 12, 10, 15):
        x = images(number, 32)
        assert_same(replayed(net, x, 1), eager(net, x))
    assert net.block_graphs.made == 1


@pytest.mark.parametrize('eta', [0.0, 0.5, 1.0])
def test_exits_and_importance_come_out_the_same(eta):
    head = dict(type='mmscope.MultiLabelExitHead', num_classes=5)
    net = make(MambaScopeBackbone, eta=eta, exit_head=head)
    x = images(6)
    with torch.no_grad():
        confidence = net.coarse(x).decision.confidence
        middle = confidence.sort().values[2:4].mean().item()
        with exit_settings(net, eta and (middle if eta < 1 else 1)):
            assert_same(replayed(net, x), eager(net, x))
            results = []
            for graphs in (net.block_graphs, None):
                net.block_graphs = graphs
                results.append(net.scope(x))
    first, second = results
    assert torch.equal(first.exited, second.exited)
    assert first.exited.sum() == {0.0: 6, 0.5: 3, 1.0: 0}[eta]
    torch.testing.assert_close(
        first.coarse.importance, second.coarse.importance
    )


def test_passes_of_equal_length_are_told_apart():
    """A quarter of the cells, without the rest: as long as the coarse pass."""
    head = dict(type='mmscope.MultiLabelExitHead', num_classes=5)
    net = make(
        MambaScopeBackbone, alpha=0.25, unselected='drop', exit_head=head
    )
    x = images()
    with torch.no_grad():
        expected = eager(net, x)
        for _ in range(3):
            result = net.scope(x)
    assert net.block_graphs.made == 2
    assert result.coarse.importance.shape == (2, 4)
    assert_same(result.features, expected)


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Adapted(nn.Module):
    """A linear layer with something beside it, as LoRA has."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.scale = nn.Parameter(
            torch.full((), 3.0, device=linear.weight.device)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.linear(x)


def in_place(net: nn.Module) -> None:
    with torch.no_grad():
        net.layers[1].mixer.D.mul_(3)


def of_an_optimizer(net: nn.Module) -> None:
    parameters = list(net.layers.parameters())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(parameters, lr=0.1, foreach=True).step()


def by_data(net: nn.Module) -> None:
    weight = net.layers[1].mixer.out_proj.weight
    weight.data = 3 * weight.data


def assigned(net: nn.Module) -> None:
    state = {
        name: 2 * value if name.startswith('layers') else value
        for name, value in net.state_dict().items()
    }
    net.load_state_dict(state, assign=True)


def parametrized(net: nn.Module) -> None:
    parametrize.register_parametrization(
        net.layers[0].mixer.in_proj, 'weight', Doubled().eval()
    )
    net.eval()


def adapted(net: nn.Module) -> None:
    mixer = net.layers[0].mixer
    mixer.in_proj = Adapted(mixer.in_proj).eval()


def hooked(net: nn.Module) -> None:
    net.layers[1].mixer.out_proj.register_forward_hook(
        lambda module, given, out: 2 * out
    )


def hooked_before(net: nn.Module) -> None:
    net.layers[1].register_forward_pre_hook(
        lambda module, given: (2 * given[0], *given[1:])
    )


def fewer_layers(net: nn.Module) -> None:
    net.layers[1] = copy.deepcopy(net.layers[0])


def other_outputs(net: nn.Module) -> None:
    net.out_indices = (1, 2)


def attribute(net: nn.Module) -> None:
    net.layers[1].norm.eps = 3.0


def own_forward(net: nn.Module) -> None:
    linear = net.layers[1].mixer.out_proj
    linear.forward = lambda x: 2 * nn.Linear.forward(linear, x)


def other_class(net: nn.Module) -> None:
    class Negated(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    net.layers[1].mixer.out_proj.__class__ = Negated


def other_strides(net: nn.Module) -> None:
    half = net.layers[1].mixer.out_proj.weight
    half.data = half.data.view(half.shape[::-1]).t()


def plain_tensor(net: nn.Module) -> None:
    linear = net.layers[1].mixer.in_proj
    weight = 2 * linear._parameters.pop('weight').data
    linear.weight = weight  # as FSDP leaves it, in an attribute


@pytest.mark.parametrize(
    'change',
    [
        *(in_place, of_an_optimizer, by_data, assigned, parametrized),
        *(adapted, hooked, hooked_before, fewer_layers, other_outputs),
        *(attribute, own_forward, other_class, other_strides, plain_tensor),
    ],
)
def test_what_happens_to_weights_and_modules_counts(change):
    net, x = make(), images()
    before = replayed(net, x)
    change(net)
    expected = eager(net, x)
    after = replayed(net, x)
    assert_same(after, expected)
    same = [
        torch.allclose(one, other, rtol=1e-3)
        for one, other in zip(before, after, strict=True)
    ]
    assert not all(same)


class Adapter(nn.Module):
    """A layer of LoRA: what it adds can be merged into its weight."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.active = ['one']
        self.scales = dict(one=2.0)
        self.kept = dict(one=torch.ones(1, device=linear.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        out = self.linear(x)
        for name in self.active:
            out = out + self.scales[name] * self.kept[name] * x.mean()
        return out


def test_what_adapters_keep_in_attributes_counts():
    net, x = make(), images()
    net.layers[1].mixer.out_proj = Adapter(net.layers[1].mixer.out_proj)
    adapter = net.layers[1].mixer.out_proj.eval()

    def check() -> None:
        assert_same(replayed(net, x), eager(net, x))

    check()
    check()
    assert net.block_graphs.made == 1
    adapter.active.clear()
    check()
    adapter.active.append('one')
    check()
    adapter.scales['one'] = 5.0
    check()
    adapter.kept['one'] = -adapter.kept['one']
    check()
    assert net.block_graphs.made == 5


def test_a_module_with_the_id_of_one_that_is_gone():
    net, x = make(), images()
    mixer = net.layers[1].mixer
    weight = mixer.out_proj.weight

    class Times(nn.Module):
        def __init__(self, factor: Tensor) -> None:
            super().__init__()
            self.factor = [lambda: factor]  # an object

        def forward(self, x: Tensor) -> Tensor:
            return self.factor[0]() * nn.functional.linear(x, weight)

    for factor in range(12):
        # without the old one, the new one often gets its id
        mixer.out_proj = None
        mixer.out_proj = Times(float(factor)).eval()
        assert_same(replayed(net, x), eager(net, x))


class Wrapping(Tensor):
    """A tensor that holds another, as quantised and sharded ones do."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Tensor:
        return Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, device=inner.device
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        inner = [a.inner if isinstance(a, Wrapping) else a for a in args]
        out = function(*inner, **(kwargs or {}))
        return (
            cls(out) if function.is_view or 'detach' in str(function) else out
        )


def test_tensors_that_hold_others_are_not_recorded():
    net, x = make(), images()
    linear = net.layers[1].mixer.out_proj
    weight = linear.weight.data
    linear.weight = nn.Parameter(Wrapping(weight), requires_grad=False)
    assert_same(replayed(net, x), eager(net, x))
    linear.weight = nn.Parameter(Wrapping(3 * weight), requires_grad=False)
    assert_same(replayed(net, x), eager(net, x))
    assert net.block_graphs.made == 0


def test_weights_kept_for_a_while_are_not_recorded():
    net, x = make(), images()
    parametrized(net)
    with parametrize.cached():
        replayed(net, x)
    assert net.block_graphs.made == 0
    in_place(net)
    assert_same(replayed(net, x), eager(net, x))


def test_replicas_of_data_parallel_are_not_recorded():
    net, x = make(), images()
    net.layers = net.layers._replicate_for_data_parallel()
    assert_same(replayed(net, x), eager(net, x))
    assert net.block_graphs.made == 0


def test_forward_mode_keeps_its_tangents():
    net = make(scan_backend='reference')
    x = torch.rand(2, 17, 32, device=DEVICE)
    with torch.no_grad(), forward_ad.dual_level():
        for _ in range(3):
            dual = forward_ad.make_dual(x, torch.ones_like(x))
            out = forward_ad.unpack_dual(net.encode(dual).last)
            assert out.tangent.abs().sum() > 0
    assert net.block_graphs.made == 0


def test_the_way_that_torch_sets_tf32_does_not_matter():
    code = (
        'import torch; torch.backends.cuda.matmul.fp32_precision = "tf32"; '
        'from mmscope.models.graph_keys import surroundings; '
        'before = tuple(surroundings(torch.ones(1))); '
        'torch.backends.cuda.matmul.fp32_precision = "ieee"; '
        'assert before != tuple(surroundings(torch.ones(1)))'
    )
    if hasattr(torch.backends.cuda.matmul, 'fp32_precision'):
        subprocess.run([sys.executable, '-c', code], check=True)


def test_sizes_that_are_rare_make_no_graphs(monkeypatch):
    monkeypatch.setattr(block_graphs, 'MAX_GRAPHS', 2)
    monkeypatch.setattr(block_graphs, 'MAX_SEEN', 2)
    net = make()
    for _ in range(3):
        for side in (32, 48, 64):
            replayed(net, images(1, side), 1)
    assert net.block_graphs.made == 0
    assert len(net.block_graphs._seen) == 2


def test_a_model_is_freed_without_a_collector():
    net = make_rival()
    replayed(net, images())
    gone = weakref.ref(net)
    gc.disable()
    try:
        del net
        assert gone() is None
    finally:
        gc.enable()


def test_another_precision_or_backend_is_another_graph():
    net, x = make(), images()
    kind = torch.device(DEVICE).type
    plain = replayed(net, x)
    with torch.autocast(kind, torch.bfloat16):
        half, expected = replayed(net, x), eager(net, x)
    assert_same(half, expected)
    with use_backend('reference'):
        assert_same(replayed(net, x), plain, rtol=1e-4, atol=1e-5)
    assert net.block_graphs.made == 3
    assert not torch.equal(half[-1].float(), plain[-1])
    with torch.inference_mode():
        out = [net(x) for _ in range(3)][-1]
    assert_same(out, plain)
    assert_same(replayed(net, x), plain)


def test_training_needs_no_graphs():
    net, x = make(), images()
    replayed(net, x)
    net.train()
    assert len(net.block_graphs) == 0
    sum(out.sum() for out in net(x)).backward()
    assert net.layers[0].mixer.in_proj.weight.grad.abs().sum() > 0
    replayed(net, x)  # some use modules in training without gradients
    assert len(net.block_graphs) == 0
    net.eval()
    assert_same(replayed(net, x), eager(net, x))
    assert len(net.block_graphs) == 1


def test_gradients_flow_in_evaluation_mode():
    net, x = make(), images()
    replayed(net, x)
    x.requires_grad_()
    net(x)[-1].square().sum().backward()
    assert x.grad.abs().sum() > 0


def test_copies_have_graphs_of_their_own():
    net, x = make(), images()
    replayed(net, x)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert type(other.block_graphs) is BlockGraphs
        assert len(other.block_graphs) == 0
        by_data(other)
        other.block_graphs = Graphs()
        assert_same(replayed(other, x), eager(other, x))
    assert_same(replayed(net, x), eager(net, x))


def test_graphs_not_used_longest_go_first(monkeypatch):
    monkeypatch.setattr(block_graphs, 'MAX_GRAPHS', 2)
    net, sides = make(), (32, 48, 64)
    for side in sides:
        replayed(net, images(1, side))
    assert (net.block_graphs.made, len(net.block_graphs)) == (3, 2)
    replayed(net, images(1, 64), 1)
    assert net.block_graphs.made == 3
    replayed(net, images(1, 32), 2)
    assert net.block_graphs.made == 4


def test_threads_do_not_mix_their_images():
    net = make()
    batches = [images() for _ in range(4)]
    expected = [eager(net, x)[-1] for x in batches]
    replayed(net, batches[0])
    wrong = []

    def work(number: int) -> None:
        for _ in range(5):
            out = replayed(net, batches[number], 1)[-1]
            if not torch.allclose(out, expected[number], atol=1e-5):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_nothing_is_replayed_where_torch_traces():
    net, x = make(), images()
    replayed(net, x)
    made = net.block_graphs.made
    with torch.no_grad():
        program = torch.export.export(net, (x,), strict=False)
        assert_same(program.module()(x), eager(net, x))
        traced = torch.jit.trace(net, x, check_trace=False)
        assert_same(traced(x), eager(net, x))
        graph = make_fx(net)(x)
        y = torch.rand_like(x)
        assert_same(graph(y), eager(net, y))
    assert net.block_graphs.made == made


def test_counters_of_work_see_the_blocks():
    net, x = make(), images()
    counts = []
    for _ in range(4):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(x)
        counts.append(counter.get_total_flops())
        replayed(net, x, 1)
    assert len(set(counts)) == 1
    assert net.block_graphs.made == 1


def test_vmap_maps_blocks():
    net = make()
    x = torch.rand(3, 2, 3, 64, 64, device=DEVICE)
    replayed(net, x[0])
    with torch.no_grad():
        for _ in range(3):
            out = torch.vmap(lambda one: net(one)[-1])(x)
    for one, images_ in zip(out, x, strict=True):
        torch.testing.assert_close(one, eager(net, images_)[-1])


def test_what_cannot_be_captured_says_how_to_go_on(monkeypatch):
    net, x = make(), images()

    def fails(run, filled):
        raise RuntimeError('operation not permitted when capturing')

    monkeypatch.setattr(Graphs, 'recorder', lambda self, x: fails)
    with pytest.raises(RuntimeError, match='cuda_graphs=False .*not permit'):
        replayed(net, x)


def make_rival(**options) -> nn.Module:
    net = FusedVisionTransformer(
        img_size=64,
        embed_dims=32,
        num_layers=2,
        num_heads=2,
        out_indices=(0, 1),
        cuda_graphs=True,
        **options,
    )
    net = net.to(DEVICE).eval()
    net.block_graphs = Graphs()
    return net


def test_the_rivals_may_have_them_too():
    net = make_rival()
    for _ in range(3):
        x = images()
        assert_same(replayed(net, x, 1), eager(net, x))
    assert net.block_graphs.made == 1
    weight = net.layers[0].attn.attn.out_proj.weight
    weight.data = 2 * weight.data
    assert_same(replayed(net, x, 1), eager(net, x))
    replayed(net, x)
    net.out_indices = [1]
    assert_same(replayed(net, x), eager(net, x))
    net.train()
    assert len(net.block_graphs) == 0


def test_rivals_with_class_tokens():
    net, x = make_rival(output_cls_token=True), images()
    for one, other in zip(replayed(net, x), eager(net, x), strict=True):
        assert_same(one, other)


def test_without_a_gpu_the_option_changes_nothing():
    net = VisionMambaBackbone(**SMALL, cuda_graphs=True).eval()
    x = torch.rand(2, 3, 64, 64)
    assert_same(replayed(net, x), eager(net, x), rtol=0, atol=0)
    assert len(net.block_graphs) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason='needs a CUDA device')
def test_memory_of_graphs_is_given_back():
    net, x = make(), images(4)
    replayed(net, x)  # cuBLAS keeps its workspace
    net.block_graphs.clear()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        replayed(net, x)
        assert torch.cuda.memory_allocated() > before
        net.block_graphs.clear()
        assert torch.cuda.memory_allocated() == before


@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason='needs a CUDA device')
def test_streams_have_graphs_of_their_own():
    net, x = make(), images()
    expected = eager(net, x)
    streams = [torch.cuda.Stream() for _ in range(2)]
    for _ in range(4):
        outs = []
        for stream in streams:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                outs.append(replayed(net, x, 1))
        torch.cuda.synchronize()
        for out in outs:
            assert_same(out, expected)
    assert net.block_graphs.made == 2

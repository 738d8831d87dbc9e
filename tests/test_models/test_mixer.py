"""Whatever changes a mixer's weights changes its next forward pass."""

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import EMAHook
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.utils import parametrize, prune
from torch.optim.swa_utils import AveragedModel

from mmscope.models.layers import BiMambaMixer, ScoreMetric, VimBlock

X = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
STACKED = (
    *('conv_weight', 'conv_bias', 'x_proj', 'dt_proj', 'dt_bias'),
    *('A_log', 'D'),
)


def make_mixer(seed: int = 0) -> BiMambaMixer:
    torch.manual_seed(seed)
    mixer = BiMambaMixer(32, d_state=4)
    mixer.reset_parameters(depth=2)
    return mixer.eval()


@pytest.fixture
def mixer() -> BiMambaMixer:
    """A mixer in evaluation mode that was used without gradients."""
    mixer = make_mixer()
    answer(mixer)
    return mixer


def answer(mixer: nn.Module, x: torch.Tensor = X) -> torch.Tensor:
    """What inference gives."""
    with torch.no_grad():
        return mixer(x)[0]


def of_its_weights(mixer: BiMambaMixer) -> torch.Tensor:
    """What a new mixer with the weights of ``mixer`` gives."""
    fresh = make_mixer(seed=9).to(mixer.D.dtype)
    for name in STACKED:
        getattr(fresh, name).data = getattr(mixer, name).detach().clone()
    for name in ('in_proj', 'out_proj'):
        weight = getattr(mixer, name).weight.detach().clone()
        getattr(fresh, name).weight.data = weight
    return answer(fresh)


def replace_data(mixer: BiMambaMixer) -> None:
    mixer.A_log.data = mixer.A_log.data + 1


def write_data(mixer: BiMambaMixer) -> None:
    """As EMA hooks, torch_ema and mean teachers do."""
    mixer.A_log.data.fill_(1.0)
    mixer.dt_bias.data.copy_(mixer.dt_bias.data + 1)


def write_through_numpy(mixer: BiMambaMixer) -> None:
    mixer.x_proj.data.numpy()[:] *= 2


def step_in_inference_mode(mixer: BiMambaMixer) -> None:
    with torch.inference_mode():
        mixer.D.add_(1)


def fused_step(mixer: BiMambaMixer) -> None:
    """It moves no version counter."""
    mixer(X)[0].square().sum().backward()
    torch.optim.AdamW(mixer.parameters(), lr=0.1, fused=True).step()


def new_parameter(mixer: BiMambaMixer) -> None:
    mixer.dt_proj = nn.Parameter(-mixer.dt_proj.detach())


def load(mixer: BiMambaMixer) -> None:
    mixer.load_state_dict(make_mixer(seed=1).state_dict())


def load_by_assignment(mixer: BiMambaMixer) -> None:
    mixer.load_state_dict(make_mixer(seed=1).state_dict(), assign=True)


def parametrized(mixer: BiMambaMixer) -> None:
    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    for name in STACKED:
        parametrize.register_parametrization(mixer, name, Doubled())


def weight_normed(mixer: BiMambaMixer) -> None:
    nn.utils.parametrizations.weight_norm(mixer, 'x_proj')
    nn.utils.parametrizations.weight_norm(mixer.in_proj)
    with torch.no_grad():
        mixer.parametrizations.x_proj.original0.mul_(3)


def pruned(mixer: BiMambaMixer) -> None:
    for name in ('x_proj', 'dt_proj', 'conv_weight'):
        prune.l1_unstructured(mixer, name, amount=0.5)
    prune.l1_unstructured(mixer.out_proj, 'weight', amount=0.5)


@pytest.mark.parametrize(
    'change',
    [
        replace_data,
        write_data,
        write_through_numpy,
        step_in_inference_mode,
        fused_step,
        new_parameter,
        load,
        load_by_assignment,
        parametrized,
        weight_normed,
        pruned,
    ],
)
def test_changes_are_seen(
    mixer, change: Callable[[BiMambaMixer], None]
) -> None:
    before = answer(mixer)
    change(mixer)
    after = answer(mixer)
    torch.testing.assert_close(after, of_its_weights(mixer))
    assert not torch.allclose(after, before, rtol=1e-6, atol=0)


@pytest.mark.parametrize('name', dict(make_mixer().named_parameters()))
def test_a_change_of_any_parameter_is_seen(mixer, name) -> None:
    before = answer(mixer)
    mixer.get_parameter(name).data.mul_(1.5).add_(0.5)
    after = answer(mixer)
    torch.testing.assert_close(after, of_its_weights(mixer))
    assert not torch.allclose(after, before, rtol=1e-6, atol=0)


@pytest.mark.parametrize('name', STACKED)
def test_either_direction_has_weights_of_its_own(mixer, name) -> None:
    """Reversing the tokens and swapping the directions changes nothing."""
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    before = answer(mixer)
    swapped = copy.deepcopy(mixer)
    for other in STACKED:
        getattr(swapped, other).data = getattr(mixer, other).data.flip(0)
    torch.testing.assert_close(answer(swapped, X.flip(1)).flip(1), before)
    getattr(swapped, name).data = getattr(mixer, name).data
    partly = answer(swapped, X.flip(1)).flip(1)
    assert not torch.allclose(partly, before, rtol=1e-4)


def test_a_parametrization_is_trained_through(mixer) -> None:
    """As low-rank adapters of plain parameters are."""

    class LowRank(nn.Module):
        def __init__(self, weight: torch.Tensor) -> None:
            super().__init__()
            groups, rows, columns = weight.shape
            self.down = nn.Parameter(torch.randn(groups, 2, columns))
            self.up = nn.Parameter(torch.zeros(groups, rows, 2))

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight + self.up @ self.down

    before = answer(mixer)
    mixer.requires_grad_(False)
    for name in ('x_proj', 'dt_proj'):
        adapter = LowRank(getattr(mixer, name))
        parametrize.register_parametrization(mixer, name, adapter)
    torch.testing.assert_close(answer(mixer), before)
    mixer(X)[0].square().sum().backward()
    trained = {
        name for name, p in mixer.named_parameters() if p.grad is not None
    }
    assert trained == {
        f'parametrizations.{name}.0.{part}'
        for name in ('x_proj', 'dt_proj')
        for part in ('up', 'down')
    }
    for name in ('x_proj', 'dt_proj'):
        assert mixer.parametrizations[name][0].up.grad.abs().max() > 0


def test_hooks_on_the_linear_layers_take_part(mixer) -> None:
    """So adapters and quantisation of them do."""
    before = answer(mixer)
    for layer in (mixer.in_proj, mixer.out_proj):
        handle = layer.register_forward_hook(lambda m, x, out: 2 * out)
        assert not torch.allclose(answer(mixer), before)
        handle.remove()
    assert torch.equal(answer(mixer), before)
    linears = {n for n, m in mixer.named_modules() if n}
    assert linears == {'in_proj', 'out_proj'}


def test_averaged_weights_are_what_answers(mixer) -> None:
    teacher = AveragedModel(mixer, avg_fn=lambda avg, new, _: avg + new)
    teacher.eval()  # once, as mean teachers do
    for seed in (1, 2):
        teacher.update_parameters(make_mixer(seed))
        torch.testing.assert_close(
            answer(teacher), of_its_weights(teacher.module)
        )


def test_swapping_averages_in_and_out(mixer) -> None:
    """The loop of torch_ema: store, copy to, predict, restore."""
    average = [p.detach() * 1.5 for p in mixer.parameters()]
    before = answer(mixer)
    stored = [p.detach().clone() for p in mixer.parameters()]
    for parameter, other in zip(mixer.parameters(), average, strict=True):
        parameter.data.copy_(other.data)
    torch.testing.assert_close(answer(mixer), of_its_weights(mixer))
    assert not torch.allclose(answer(mixer), before)
    for parameter, other in zip(mixer.parameters(), stored, strict=True):
        parameter.data.copy_(other.data)
    assert torch.equal(answer(mixer), before)


def test_ema_hook_and_a_prediction_behind_it(mixer) -> None:
    """mmengine swaps data before and after validation, without eval()."""

    class Runner:
        model = mixer
        iter = epoch = 0

    hook, before = EMAHook(momentum=0.5), answer(mixer)
    hook.before_run(Runner)
    for seed in (1, 2):
        mixer.load_state_dict(make_mixer(seed).state_dict())
        hook.after_train_iter(Runner, 0)
    own = answer(mixer)
    hook.before_val_epoch(Runner)
    averaged = answer(mixer)
    assert not torch.allclose(averaged, own)
    hook.after_val_epoch(Runner)
    assert torch.equal(answer(mixer), own)  # as a hook in after_val sees it
    assert not torch.equal(own, before)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_weights(mixer, dtype) -> None:
    expected = answer(mixer)
    half = mixer.to(dtype)
    out = answer(half, X.to(dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.02)


def test_decay_is_taken_in_float32(mixer) -> None:
    """exp(11.5) is beyond half precision, and infinity times 0 is NaN."""
    with torch.no_grad():
        mixer.A_log.fill_(11.5)
        mixer.dt_bias.fill_(-200)
    assert answer(mixer.half(), X.half()).isfinite().all()


def test_autocast_gives_the_same_with_and_without_gradients(mixer) -> None:
    exact = answer(mixer)
    with torch.autocast('cpu', torch.bfloat16):
        out, scores = mixer(X, ScoreMetric())
        with torch.no_grad():
            again, own_scores = mixer(X, ScoreMetric())
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, again)
    assert torch.equal(scores, own_scores)
    assert torch.equal(answer(mixer), exact)


def test_replicas_of_data_parallel(mixer) -> None:
    """They have views of the weights as attributes, and no parameters."""
    replica = mixer._replicate_for_data_parallel()
    for name in STACKED:
        setattr(
            replica, name, getattr(mixer, name).view_as(getattr(mixer, name))
        )
    for name in ('in_proj', 'out_proj'):
        layer = getattr(mixer, name)
        copied = layer._replicate_for_data_parallel()
        copied.weight, copied.bias = layer.weight.view_as(layer.weight), None
        replica._modules[name] = copied
    assert not list(replica.parameters())
    assert torch.equal(answer(replica), answer(mixer))


@pytest.fixture
def process_group() -> Iterator[None]:
    """A group of this process alone."""
    store = dist.HashStore()
    dist.init_process_group('gloo', store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings('ignore:FSDP is switching to use `NO_SHARD`')
@pytest.mark.parametrize('use_orig_params', [False, True])
def test_flat_parameters_of_fsdp(
    make_vim, process_group, use_orig_params
) -> None:
    """With False the mixers have plain views of one flat parameter."""
    net, images = make_vim(), torch.rand(1, 3, 64, 96)
    sharded = FullyShardedDataParallel(
        copy.deepcopy(net),
        auto_wrap_policy=ModuleWrapPolicy({VimBlock}),
        device_id=torch.device('cpu'),
        use_orig_params=use_orig_params,
    )
    with torch.no_grad():
        assert torch.equal(sharded(images)[0], net(images)[0])
    sum(m.square().sum() for m in sharded(images)).backward()
    torch.optim.AdamW(sharded.parameters(), lr=0.1).step()
    with FullyShardedDataParallel.summon_full_params(sharded):
        net.load_state_dict(sharded.module.state_dict())
    with torch.no_grad():
        assert torch.equal(sharded(images)[0], net(images)[0])


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_linear_layers_take_quantisation(make_net) -> None:
    net, images = make_net(exit_head=None), torch.rand(1, 3, 64, 96)
    quantised = torch.ao.quantization.quantize_dynamic(
        net, {nn.Linear}, torch.qint8
    )
    names = {
        name
        for name, module in quantised.named_modules()
        if isinstance(module, torch.ao.nn.quantized.dynamic.Linear)
    }
    assert {f'layers.0.mixer.{n}' for n in ('in_proj', 'out_proj')} <= names
    assert {'reuse.layers.1', 'reuse.layers.3'} <= names
    with torch.no_grad():
        expected, out = net(images)[0], quantised(images)[0]
    assert not torch.equal(out, expected)
    assert (out - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(
    'copied', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies_share_nothing(mixer, copied) -> None:
    other, expected = copied(mixer), answer(mixer)
    other.A_log.data.add_(1)
    assert not torch.allclose(answer(other), expected)
    assert torch.equal(answer(mixer), expected)


def test_moves_to_another_device(mixer) -> None:
    moved = mixer.to('meta')
    assert answer(moved, X.to('meta')).is_meta
    back = moved.to_empty(device='cpu')
    back.load_state_dict(make_mixer(seed=1).state_dict())
    assert torch.equal(answer(back), answer(make_mixer(seed=1)))


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.filterwarnings('ignore:`torch.jit:DeprecationWarning')
@pytest.mark.parametrize('warm', [False, True])
def test_traced_weights_stay_parameters(warm) -> None:
    mixer = make_mixer()
    if warm:
        answer(mixer)
    with torch.no_grad():
        module = torch.jit.trace(FirstOutput(mixer), X)
    torch.testing.assert_close(module(X), answer(mixer))
    # a module that was traced has its weights, not constants made of them
    module.load_state_dict(FirstOutput(make_mixer(seed=1)).state_dict())
    torch.testing.assert_close(module(X), answer(make_mixer(seed=1)))


class FirstOutput(nn.Module):
    def __init__(self, mixer: BiMambaMixer) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mixer(x)[0]


def test_compiled_without_a_constant(mixer) -> None:
    torch.compiler.reset()
    compiled = torch.compile(mixer, fullgraph=True, backend='aot_eager')
    for _ in range(2):
        mixer.A_log.data.add_(0.5)
        torch.testing.assert_close(answer(compiled), answer(mixer))

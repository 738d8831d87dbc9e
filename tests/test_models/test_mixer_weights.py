"""Weights kept for inference are never stale."""

import copy
import pickle
from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from torch import nn

from mmscope.models.layers import BiMambaMixer, ScoreMetric
from mmscope.models.mixer_weights import MixerWeights

X = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))


def make_mixer(seed: int = 0) -> BiMambaMixer:
    torch.manual_seed(seed)
    mixer = BiMambaMixer(32, d_state=4)
    mixer.reset_parameters(depth=2)
    return mixer.eval()


@pytest.fixture
def mixer() -> BiMambaMixer:
    """A mixer that has kept its weights."""
    mixer = make_mixer()
    with torch.no_grad():
        mixer(X)
    assert mixer.kept_weights._kept is not None
    return mixer


def assert_not_stale(mixer: BiMambaMixer, x: torch.Tensor = X) -> None:
    """The pass without gradients gives what the one with them gives."""
    expected, scores = mixer(x, ScoreMetric())
    with torch.no_grad():
        out, own_scores = mixer(x, ScoreMetric())
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(own_scores, scores)


@pytest.mark.parametrize('autocast', [False, True])
def test_same_result_as_without(mixer, autocast) -> None:
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        expected, _ = mixer(X)
        for modes in permutations((torch.no_grad, torch.inference_mode)):
            mixer.kept_weights.clear()
            for mode in modes:
                with mode():
                    assert torch.equal(mixer(X)[0], expected)
    assert_not_stale(mixer)


def test_made_once(mixer, monkeypatch) -> None:
    made = []
    monkeypatch.setattr(MixerWeights, 'of', made.append)
    with torch.no_grad():
        mixer(X)
    with torch.inference_mode():
        mixer(X)
    assert made == []


def replace_data(mixer: BiMambaMixer) -> None:
    mixer.A_log.data = mixer.A_log.data + 1


def round_twice(mixer: BiMambaMixer) -> None:
    """The last copy may get the address of the first, if that is free."""
    parameter = mixer.x_proj.weight
    address = parameter.data_ptr()
    for _ in range(1000):
        parameter.data = parameter.data.bfloat16()
        parameter.data = parameter.data.float()
        if parameter.data_ptr() == address:
            break


def step_in_inference_mode(mixer: BiMambaMixer) -> None:
    with torch.inference_mode():
        mixer.D.add_(1)


def step_without_gradients(mixer: BiMambaMixer) -> None:
    with torch.no_grad():
        mixer.conv1d_b.bias.mul_(2).add_(1)


def step_of_an_optimizer(mixer: BiMambaMixer) -> None:
    """In evaluation mode, as where batch statistics are frozen."""
    mixer(X)[0].square().sum().backward()
    torch.optim.AdamW(mixer.parameters(), lr=0.1).step()


def write_data_and_evaluate(mixer: BiMambaMixer) -> None:
    """As mmengine's EMA hook does."""
    mixer.A_b_log.data.fill_(1.0)
    mixer.eval()


def train_in_between(mixer: BiMambaMixer) -> None:
    mixer.train()
    mixer.dt_proj.bias.data.add_(1)
    mixer.training = False


def new_parameter(mixer: BiMambaMixer) -> None:
    mixer.dt_proj_b.weight = nn.Parameter(-mixer.dt_proj_b.weight.detach())


def load(mixer: BiMambaMixer) -> None:
    mixer.load_state_dict(make_mixer(seed=1).state_dict())


def load_by_assignment(mixer: BiMambaMixer) -> None:
    mixer.load_state_dict(make_mixer(seed=1).state_dict(), assign=True)


@pytest.mark.parametrize(
    'change',
    [
        replace_data,
        round_twice,
        step_in_inference_mode,
        step_without_gradients,
        step_of_an_optimizer,
        write_data_and_evaluate,
        train_in_between,
        new_parameter,
        load,
        load_by_assignment,
    ],
)
def test_changes_are_seen(
    mixer, change: Callable[[BiMambaMixer], None]
) -> None:
    with torch.no_grad():
        before, _ = mixer(X)
    change(mixer)
    assert_not_stale(mixer)
    assert not torch.allclose(mixer(X)[0], before, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    'name', [name for name, _ in make_mixer().named_parameters()]
)
def test_a_change_of_any_parameter_is_seen(mixer, name) -> None:
    with torch.no_grad():
        mixer.get_parameter(name).mul_(1.5).add_(0.5)
    assert_not_stale(mixer)


def test_addresses_stay_taken(mixer) -> None:
    """Else new memory at an old address would pass for the old one."""
    addresses = [address for _, address in mixer.kept_weights._kept.states]
    for parameter in mixer.parameters():
        parameter.data = torch.zeros_like(parameter)
    held = mixer.kept_weights._kept.memory
    assert [tensor.data_ptr() for tensor in held] == addresses
    assert not {p.data_ptr() for p in mixer.parameters()} & {*addresses}


def test_moves_to_another_dtype(mixer) -> None:
    mixer.double()
    assert_not_stale(mixer, X.double())
    with torch.no_grad():
        assert mixer(X.double())[0].dtype == torch.float64
    mixer.float()
    assert_not_stale(mixer)


def test_moves_to_another_device(mixer) -> None:
    moved = mixer.to('meta')
    with torch.no_grad():
        assert moved(X.to('meta'))[0].is_meta
    back = moved.to_empty(device='cpu')
    back.load_state_dict(make_mixer(seed=1).state_dict())
    assert_not_stale(back)


def test_autocast_is_told_apart(mixer) -> None:
    with torch.no_grad():
        exact, _ = mixer(X)
        for _ in range(2):
            with torch.autocast('cpu', torch.bfloat16):
                assert mixer(X)[0].dtype == torch.bfloat16
                kept = mixer.kept_weights._kept.weights
                assert kept.x_proj.dtype == kept.dt_proj.dtype
                assert kept.x_proj.dtype == torch.bfloat16
            assert torch.equal(mixer(X)[0], exact)


@pytest.mark.parametrize(
    'copied', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies_keep_nothing(mixer, copied) -> None:
    other = copied(mixer)
    assert other.kept_weights._kept is None
    with torch.no_grad():
        expected, _ = mixer(X)
        other.A_log.data.add_(1)
        assert not torch.allclose(other(X)[0], expected)
        assert torch.equal(mixer(X)[0], expected)


def test_not_in_the_state_dict(mixer) -> None:
    assert mixer.state_dict().keys() == make_mixer().state_dict().keys()
    names = {name.split('.')[0] for name in mixer.state_dict()}
    assert 'kept_weights' not in names


def test_nothing_is_kept_with_gradients_or_in_training() -> None:
    mixer = make_mixer()
    mixer(X)
    with torch.no_grad():
        mixer.train()(X)
    assert mixer.kept_weights._kept is None


def test_parameters_of_inference_mode() -> None:
    """Torch does not count their changes."""
    with torch.inference_mode():
        mixer = make_mixer()
        mixer(X)
        mixer.D.add_(1)
        out, _ = mixer(X)
        mixer.kept_weights.clear()
        assert torch.equal(mixer(X)[0], out)


def test_fake_weights_are_not_kept() -> None:
    from torch._subclasses import FakeTensorMode

    mixer = make_mixer()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        mixer(X)
    assert_not_stale(mixer)


def test_compiled_without_a_constant(mixer) -> None:
    torch.compiler.reset()
    compiled = torch.compile(mixer, fullgraph=True, backend='aot_eager')
    with torch.no_grad():
        for _ in range(2):
            mixer.A_log.data.add_(0.5)
            mixer.eval()
            torch.testing.assert_close(compiled(X)[0], mixer(X)[0])

"""Hooks, in real training runs of a tiny UperNet."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from run_hooks import Before, Recorder
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmscope.engine import AlphaScheduleHook, FiniteLossHook
from mmscope.engine.checkpoint_hooks import random_state, set_random_state
from mmscope.utils.checkpoint import read_state_dict

SCHEDULE = """
train_cfg = dict(max_iters=6, val_interval={val})
default_hooks = dict(
    checkpoint=dict(interval={save}, max_keep_ckpts=1, save_best=None)
)
"""
NO_VAL = 'val_dataloader = val_evaluator = val_cfg = None\n'


def test_alpha_changes_after_two_thirds_but_not_in_validation(
    train, tiny_config, tmp_path
) -> None:
    recorder = Recorder()
    config = tiny_config(SCHEDULE.format(val=2, save=100))
    runner = train(config, tmp_path, recorder)
    assert recorder.alphas == {
        **dict.fromkeys([1, 2, 3, 4], 1.0),
        **dict.fromkeys([5, 6], 0.8),
    }
    assert recorder.val_alphas == [0.8] * 3
    assert runner.model.backbone.alpha == 0.8


@pytest.mark.parametrize('share', [-0.1, 1.01, float('nan')])
def test_bad_share_of_full_refinement(share: float) -> None:
    with pytest.raises(ValueError, match=rf'in \[0, 1\], got {share}'):
        AlphaScheduleHook(share)


def test_schedule_of_a_model_without_alpha(
    train, tiny_config, tmp_path
) -> None:
    hooks = "custom_hooks = [dict(type='mmscope.AlphaScheduleHook')]\n"
    config = tiny_config(hooks, base='vim_t_ade20k')
    with pytest.raises(TypeError, match='needs a Mamba.*got VisionMamba'):
        train(config, tmp_path)


def test_random_states_come_back() -> None:
    def draw() -> tuple:
        return random.random(), np.random.rand(), torch.rand(()).item()

    state = random_state()
    first = draw()
    assert draw() != first
    set_random_state(state, ('python', 'numpy', 'torch'))
    assert draw() == first
    set_random_state(state, ('numpy',))
    drawn = draw()
    assert drawn[1] == first[1]
    assert drawn[0] != first[0]
    assert drawn[2] != first[2]


def test_validation_leaves_training_alone(
    train, tiny_config, tmp_path
) -> None:
    with_val, without = Recorder(), Recorder()
    schedule = SCHEDULE.format(val=2, save=100)
    train(tiny_config(schedule), tmp_path / 'with', with_val)
    train(tiny_config(schedule + NO_VAL), tmp_path / 'without', without)
    assert len(with_val.val_alphas) == 3
    assert without.val_alphas == []
    assert with_val.losses == without.losses


def spoil_loss(runner: Runner) -> None:
    runner.model.exit_weight = float('nan')


def spoil_pixels(runner: Runner) -> None:
    runner.model.data_preprocessor.mean.fill_(float('nan'))


def spoil_step(runner: Runner) -> None:
    for group in runner.optim_wrapper.param_groups:
        group['lr'] = float('inf')


@pytest.mark.parametrize(
    ('iteration', 'spoil', 'message'),
    [
        (1, spoil_loss, r"losses \{.*'loss_exit': nan.*no checkpoint had"),
        (1, spoil_pixels, r"losses \{'loss': nan.*pixels that are not finit"),
        (5, spoil_loss, r"losses \{.*'loss_exit': nan.*good .*/iter_4\.pth"),
        # its checkpoint was due in this very iteration
        (4, spoil_step, r"weights \['backbone.*good .*/iter_2\.pth"),
    ],
)
def test_what_is_not_finite_stops_training(
    train, tiny_config, tmp_path, iteration, spoil, message
) -> None:
    config = tiny_config(SCHEDULE.format(val=100, save=2) + NO_VAL)
    with pytest.raises(
        FloatingPointError,
        match=rf'stopped at iteration {iteration}: .*{message}',
    ) as error:
        train(config, tmp_path, Before(iteration, spoil))
    saved = [str(path) for path in tmp_path.glob('*.pth')]
    # the one that the message names, and no other
    assert len(saved) == (iteration > 1)
    for path in saved:
        assert path in str(error.value)
        weights = read_state_dict(path).values()
        assert all(w.isfinite().all() for w in weights)


class Reductions(TorchDispatchMode):
    """Counts the operators that make one number of many."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.count += any(word in name for word in ('norm', 'sum', 'all'))
        return func(*args, **(kwargs or {}))


def test_all_weights_are_looked_at_in_a_few_steps() -> None:
    net = nn.ModuleList(nn.Linear(2, 2) for _ in range(100))
    with Reductions() as reductions:
        FiniteLossHook().after_train_iter(
            SimpleNamespace(model=net), 0, outputs=dict(loss=torch.ones(()))
        )
    assert 1 <= reductions.count <= 4

"""Hooks: schedule of alpha, exact resumption, a guard of the loss."""

import random

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmscope.registry import HOOKS
from mmscope.utils.structures import unwrap


@HOOKS.register_module()
class AlphaScheduleHook(Hook):
    """Refine every cell at first, and a share ``alpha`` of them later.

    The paper trains 200 of 300 ImageNet epochs at full refinement. Which
    side of the switch an iteration is on follows from its number, so that
    a resumed run needs no state. Validation always uses the backbone's own
    alpha.

    Args:
        full_until: Share of training with alpha = 1.

    Raises:
        ValueError: ``full_until`` is outside [0, 1].
    """

    priority = 'HIGH'

    def __init__(self, full_until: float = 2 / 3) -> None:
        if not 0 <= full_until <= 1:
            raise ValueError(f'full_until must be in [0, 1], got {full_until}')
        self.full_until = full_until
        self.alpha: float | None = None

    def before_train(self, runner: Runner) -> None:
        """Remember the alpha of the config.

        Raises:
            TypeError: the backbone has none.
        """
        backbone = unwrap(runner.model).backbone
        if not hasattr(backbone, 'alpha'):
            raise TypeError(
                'AlphaScheduleHook needs a MambaScopeBackbone, got '
                f'{type(backbone).__name__}'
            )
        self.alpha = backbone.alpha

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Set alpha for this iteration."""
        full = runner.iter < self.full_until * runner.max_iters
        self._set(runner, 1.0 if full else self.alpha)

    def before_val(self, runner: Runner) -> None:
        """Validate as one will infer."""
        if self.alpha is not None:
            self._set(runner, self.alpha)

    def after_train(self, runner: Runner) -> None:
        """Leave the model as the config has it."""
        self._set(runner, self.alpha)

    @staticmethod
    def _set(runner: Runner, alpha: float) -> None:
        backbone = unwrap(runner.model).backbone
        if backbone.alpha != alpha:
            runner.logger.info('alpha is now %s', alpha)
            backbone.alpha = alpha


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Save and restore random states, so that a run resumes exactly.

    mmengine saves none. Exact at ``num_workers=0`` in a single process:
    workers draw their own numbers, and ranks save only the first one's.
    Validation is kept from moving the states.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._resumed: dict | None = None
        self._before_val: dict | None = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the random states into a checkpoint.

        CheckpointHook writes once more within a validation that found a new
        best model: training goes on with the states from before it.
        """
        checkpoint['random_state'] = self._before_val or random_state()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the states of a checkpoint that training resumes from."""
        if runner._resume and get_world_size() == 1:
            self._resumed = checkpoint.get('random_state')

    def before_train_epoch(self, runner: Runner) -> None:
        """Restore what the data pipeline draws from."""
        if self._resumed is not None:
            set_random_state(self._resumed, ('python', 'numpy'))

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Restore what the model draws from, once.

        Building the loader draws from torch's generator, so this has to
        come after it.
        """
        if self._resumed is not None:
            set_random_state(self._resumed, ('torch', 'cuda'))
            self._resumed = None

    def before_val(self, runner: Runner) -> None:
        """Remember the states."""
        self._before_val = random_state()

    def after_val(self, runner: Runner) -> None:
        """Go on as if there had been no validation."""
        set_random_state(self._before_val, tuple(self._before_val))
        self._before_val = None


def random_state() -> dict:
    """States of python's, numpy's and torch's generators."""
    return dict(
        python=random.getstate(),
        numpy=np.random.get_state(),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all(),
    )


def set_random_state(state: dict, names: tuple[str, ...]) -> None:
    """Restore some of the states that :func:`random_state` returned.

    Args:
        state: The states.
        names: Which of 'python', 'numpy', 'torch' and 'cuda'.
    """
    setters = dict(
        python=random.setstate,
        numpy=np.random.set_state,
        torch=lambda s: torch.set_rng_state(s.cpu()),
        cuda=_set_cuda_states,
    )
    for name in names:
        setters[name](state[name])


def _set_cuda_states(states: list[Tensor]) -> None:
    """Restore the states of the GPUs that are here."""
    here = states[: torch.cuda.device_count()]
    torch.cuda.set_rng_state_all([state.cpu() for state in here])


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop training at the first loss or weight that is not finite.

    It looks before the CheckpointHook does anything, so that checkpoints
    written before stay and none is written with such weights.
    """

    priority = 'VERY_HIGH'

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Check the losses and the new weights of an iteration.

        Raises:
            FloatingPointError: one of them is not finite.
        """
        losses = _floats(outputs or {})
        weights = _floats(unwrap(runner.model).state_dict())
        # one number, so that a GPU is waited for once
        values = [v.sum(dtype=torch.float32) for v in losses.values()]
        values += [v.sum(dtype=torch.float32) for v in weights.values()]
        if torch.stack(values).isfinite().all():
            return
        bad = {n: v.item() for n, v in losses.items() if not v.isfinite()}
        if bad:
            raise FloatingPointError(self._message(runner, f'losses {bad}'))
        names = [n for n, v in weights.items() if not v.isfinite().all()]
        if names:
            text = f'weights {names[:4]} ({len(names)} in all)'
            raise FloatingPointError(self._message(runner, text))

    @staticmethod
    def _message(runner: Runner, what: str) -> str:
        last = runner.message_hub.get_info('last_ckpt', None)
        kept = (
            f'the last good checkpoint is {last}'
            if last
            else 'no checkpoint had been written'
        )
        return (
            f'training stopped at iteration {runner.iter + 1}: {what} not '
            f'finite; {kept}. Lower the learning rate, clip gradients, or '
            'train without --amp'
        )


def _floats(values: dict) -> dict[str, Tensor]:
    """The floating-point tensors among some values, without gradients."""
    return {
        name: value.detach()
        for name, value in values.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }

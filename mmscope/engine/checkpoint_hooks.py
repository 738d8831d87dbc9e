"""Hooks of what checkpoints hold: random states, and only plain data."""

import random

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor

from mmscope.registry import HOOKS


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Save and restore random states, so that a run resumes exactly.

    mmengine saves none. Exact at ``num_workers=0`` in a single process:
    workers draw their own numbers, and ranks save only the first one's.
    The classic mmengine loads the images that a run over iterations skips,
    which moves the states again: it goes on with other crops of the images.
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
        """Keep the states of a checkpoint, to resume from."""
        if get_world_size() == 1:
            self._resumed = checkpoint.get('random_state')

    def before_train_epoch(self, runner: Runner) -> None:
        """Restore what the data pipeline draws from.

        A loop over epochs builds an iterator of its data after this, as the
        uninterrupted run did: there it restores all.
        """
        if runner.iter == 0:
            self._resumed = None  # only weights were loaded
        if self._resumed is not None:
            set_random_state(self._resumed, ('python', 'numpy'))
            if isinstance(runner.train_loop, EpochBasedTrainLoop):
                set_random_state(self._resumed, ('torch', 'cuda'))
                self._resumed = None

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Restore what the model draws from, once.

        A loop over iterations has drawn from torch's generator to build its
        loader, so this has to come after it.
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
    """States of python's, numpy's and torch's generators, as plain data."""
    name, keys, *rest = np.random.get_state()
    return dict(
        python=random.getstate(),
        numpy=(name, keys.tolist(), *rest),
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
class PlainCheckpointHook(Hook):
    """Write checkpoints of tensors and plain data alone.

    mmengine saves its logs as objects, which torch refuses to read with
    ``weights_only=True``, and with it tools such as mmdet's publish_model.
    """

    # after hooks that add to a checkpoint
    priority = 'LOWEST'

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Turn what is no plain data into such."""
        for name, value in checkpoint.items():
            if name != 'state_dict':
                checkpoint[name] = as_plain(value)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Turn logs into what mmengine resumes them from."""
        logs = checkpoint.get('message_hub', {}).get('log_scalars', {})
        for name, log in logs.items():
            if isinstance(log, dict):
                logs[name] = HistoryBuffer(
                    log['values'].cpu().numpy(),
                    log['counts'].cpu().numpy(),
                    log['max_length'],
                )


def as_plain(value: object) -> object:
    """Tensors, numbers, strings and containers in place of other objects.

    Args:
        value: Part of a checkpoint; logs, arrays and numbers of numpy, and
            subclasses of dict and list, are replaced.
    """
    if isinstance(value, HistoryBuffer):
        values, counts = value.data
        return dict(
            values=torch.tensor(values),
            counts=torch.tensor(counts),
            max_length=value.max_length,
        )
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, dict):
        return {as_plain(k): as_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        kind = list if isinstance(value, list) else tuple
        return kind(map(as_plain, value))
    return value

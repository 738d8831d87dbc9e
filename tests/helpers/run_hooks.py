"""Hooks that watch a training run, or disturb it."""

from collections.abc import Callable

from mmengine.hooks import Hook
from mmengine.runner import Runner


class Recorder(Hook):
    """Remember alpha and the losses of every iteration, counted from 1."""

    def __init__(self) -> None:
        self.alphas: dict[int, float] = {}
        self.losses: dict[int, dict[str, float]] = {}
        self.val_alphas: list[float] = []

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        self.alphas[runner.iter + 1] = runner.model.backbone.alpha

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        self.losses[runner.iter + 1] = {
            name: value.item() for name, value in outputs.items()
        }

    def before_val_epoch(self, runner: Runner) -> None:
        self.val_alphas.append(runner.model.backbone.alpha)


class Before(Hook):
    """Do something before one iteration, counted from 1."""

    def __init__(
        self, iteration: int, action: Callable[[Runner], None]
    ) -> None:
        self.iteration, self.action = iteration, action

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        if runner.iter + 1 == self.iteration:
            self.action(runner)


def interrupt(runner: Runner) -> None:
    """Stop as Ctrl-C does."""
    raise KeyboardInterrupt

"""Hooks: the schedule of alpha, and a guard of losses and weights."""

import math

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.nn.utils import get_total_norm

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
        losses = {
            name: value.detach().float()
            for name, value in (outputs or {}).items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        model = unwrap(runner.model)
        weights = [*model.parameters(), *model.buffers()]
        weights = [w.detach() for w in weights if w.is_floating_point()]
        # one number, so that a GPU is waited for once
        largest = get_total_norm(weights, norm_type=math.inf).float()
        if torch.stack([*losses.values(), largest]).isfinite().all():
            return
        bad = {n: v.item() for n, v in losses.items() if not v.isfinite()}
        if bad:
            raise FloatingPointError(self._message(runner, f'losses {bad}'))
        names = [
            name
            for name, weight in model.state_dict().items()
            if not weight.isfinite().all()
        ]
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
            f'finite; {kept}. Lower the learning rate, clip gradients, train '
            'without --amp, or look for pixels that are not finite by '
            'tools/check_data.py'
        )

"""Batch, accumulation, learning rate and iterations of a training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from mmengine.config import Config

from mmscope.utils.config import type_name

# what counts iterations in a scheduler that is not by epoch
SCHEDULER_KEYS = ('begin', 'end', 'T_max', 'step_size', 'milestones')


@dataclass(frozen=True)
class Loop:
    """What a config says about its training.

    Attributes:
        by_epoch: Whether it counts epochs.
        length: Epochs, or iterations.
        val_interval: Epochs or iterations between two validations.
        batch: Images of a process.
        accumulation: Iterations between two updates of the weights.
        lr: Learning rate.
        reference: Batch of all processes, over an update, that this is for.
        assumed: Whether the config does not say which.
    """

    by_epoch: bool
    length: int
    val_interval: int
    batch: int
    accumulation: int
    lr: float
    reference: int
    assumed: bool


@dataclass(frozen=True)
class Schedule:
    """How a config is trained on so many devices.

    Attributes:
        gpus: Number of processes.
        batch: Images of a process.
        accumulation: Iterations between two updates of the weights.
        reference: Batch that the config was written for.
        lr: Learning rate.
        options: Settings to change in the config, for ``--cfg-options``.
        notes: What differs from the config, in words.
    """

    gpus: int
    batch: int
    accumulation: int
    reference: int
    lr: float
    options: dict[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Images of an update."""
        return self.gpus * self.batch * self.accumulation

    @property
    def exact(self) -> bool:
        """Whether an update sees as many images as the config says."""
        return self.total == self.reference


def read_loop(cfg: Config) -> Loop:
    """Read what a config says about its training.

    Raises:
        ValueError: it does not train, or lacks what a plan needs.
    """
    name = cfg.filename
    train = cfg.get('train_cfg')
    loader = cfg.get('train_dataloader')
    wrapper = cfg.get('optim_wrapper')
    if not train or not loader or not wrapper:
        given = dict(
            train_cfg=train, train_dataloader=loader, optim_wrapper=wrapper
        )
        missing = ', '.join(key for key, value in given.items() if not value)
        raise ValueError(
            f'{name} has no {missing}: a plan is of a training; give a config '
            'that tools/train.py takes'
        )
    if 'optimizer' not in wrapper or 'lr' not in wrapper.optimizer:
        raise ValueError(
            f'{name} has no optim_wrapper.optimizer.lr; plans are for one '
            'optimizer with a learning rate'
        )
    if 'batch_size' not in loader:
        raise ValueError(
            f'{name} has no train_dataloader.batch_size; set it with '
            '--cfg-options train_dataloader.batch_size=16'
        )
    key = 'max_epochs' if 'max_epochs' in train else 'max_iters'
    if key not in train:
        raise ValueError(
            f'{name} has neither train_cfg.max_epochs nor '
            f'train_cfg.max_iters, got {dict(train)}'
        )
    accumulation = wrapper.get('accumulative_counts', 1)
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    return Loop(
        by_epoch=key == 'max_epochs',
        length=train[key],
        val_interval=train.get('val_interval', 1),
        batch=loader.batch_size,
        accumulation=accumulation,
        lr=wrapper.optimizer.lr,
        reference=base or loader.batch_size * accumulation,
        assumed=base is None,
    )


def choose_schedule(
    cfg: Config, gpus: int, most: int, batch: int | None = None
) -> Schedule:
    """Choose batch and accumulation, and what follows from them.

    A batch of all processes that is the config's own is preferred, with the
    fewest accumulations; where there is none, the nearest.

    Args:
        cfg: Complete config.
        gpus: Number of processes.
        most: Images of a process that fit.
        batch: Images of a process; default the best of those that fit.

    Raises:
        ValueError: a number is below 1, or the config does not train.
    """
    for key, value in (('--gpus', gpus), ('--batch-size', batch)):
        if value is not None and value < 1:
            raise ValueError(f'{key} must be at least 1, got {value}')
    loop = read_loop(cfg)
    if batch is None:
        batch = _best_batch(loop.reference, gpus, max(1, most))
    accumulation = _accumulation(loop.reference, gpus, batch)
    total = gpus * batch * accumulation
    options, notes = _options(cfg, loop, gpus, batch, accumulation)
    lr = loop.lr * total / loop.reference
    if loop.assumed:
        notes.append(
            f'the config has no auto_scale_lr.base_batch_size: {loop.lr:g} is '
            f'taken to be for {loop.reference} images, its own batch'
        )
    return Schedule(
        gpus, batch, accumulation, loop.reference, lr, options, tuple(notes)
    )


def _accumulation(reference: int, gpus: int, batch: int) -> int:
    """Iterations of an update, whose images come nearest to the reference."""
    below = max(1, reference // (gpus * batch))
    return min(
        (below, below + 1),
        key=lambda k: _distance(reference, gpus * batch * k),
    )


def _best_batch(reference: int, gpus: int, most: int) -> int:
    """The largest batch of those that come nearest to the reference."""

    def rank(batch: int) -> tuple[float, int]:
        k = _accumulation(reference, gpus, batch)
        return _distance(reference, gpus * batch * k), -batch

    # more than the reference is never nearer
    return min(range(1, min(most, -(-reference // gpus)) + 1), key=rank)


def _distance(reference: int, total: int) -> float:
    return abs(math.log(total / reference))


def _options(
    cfg: Config, loop: Loop, gpus: int, batch: int, accumulation: int
) -> tuple[dict[str, object], list[str]]:
    """Settings that differ from the config's, and why."""
    options, notes = {}, []
    total = gpus * batch * accumulation
    if batch != loop.batch:
        options['train_dataloader.batch_size'] = batch
    if accumulation != loop.accumulation:
        options['optim_wrapper.accumulative_counts'] = accumulation
        options |= _averaging(cfg, accumulation / loop.accumulation)
    if total != loop.reference:
        lr = loop.lr * total / loop.reference
        options['optim_wrapper.optimizer.lr'] = float(f'{lr:.6g}')
        notes.append(
            f'{total} images an update in place of {loop.reference}: the '
            f'learning rate is scaled by {total} / {loop.reference}'
        )
    if (cfg.get('auto_scale_lr') or {}).get('enable'):
        # it does not know of accumulation, and would scale once more
        options['auto_scale_lr.enable'] = False
    scale = loop.reference / loop.accumulation / (gpus * batch)
    if scale != 1:
        options |= dict(_scaled(cfg, loop, scale))
        if not loop.by_epoch:
            notes.append(
                'whatever counts iterations is scaled by '
                f'{scale:g}, so that as many images are seen'
            )
    return options, notes


def _averaging(cfg: Config, scale: float) -> dict[str, object]:
    """Average weights once for every update, as before."""
    return {
        f'{place}.interval': max(1, round(scale * hook.get('interval', 1)))
        for place, hook in _hooks(cfg)
        if type_name(hook) == 'EMAHook'
    }


def _hooks(cfg: Config) -> Iterator[tuple[str, dict]]:
    """Hooks of a config, by their place in it."""
    for name, hook in (cfg.get('default_hooks') or {}).items():
        if hook:
            yield f'default_hooks.{name}', hook
    for index, hook in enumerate(cfg.get('custom_hooks') or []):
        yield f'custom_hooks.{index}', hook


def _scaled(
    cfg: Config, loop: Loop, scale: float
) -> Iterator[tuple[str, object]]:
    """Whatever counts iterations, scaled."""

    def times(value: int) -> int:
        return max(1, round(scale * value))

    if not loop.by_epoch:
        yield 'train_cfg.max_iters', times(loop.length)
        yield 'train_cfg.val_interval', times(loop.val_interval)
    for index, one in enumerate(_schedulers(cfg)):
        if one.get('by_epoch', True):
            continue
        for key in SCHEDULER_KEYS:
            value = one.get(key)
            if isinstance(value, list | tuple):
                yield f'param_scheduler.{index}.{key}', [*map(times, value)]
            elif isinstance(value, int) and value > 0:
                yield f'param_scheduler.{index}.{key}', times(value)
    for place, hook in _hooks(cfg):
        by_epoch, interval = hook.get('by_epoch', True), hook.get('interval')
        saves = type_name(hook).endswith('CheckpointHook')
        if saves and not by_epoch and (interval or 0) > 0:
            yield f'{place}.interval', times(interval)


def _schedulers(cfg: Config) -> list[dict]:
    """Schedulers of a config, which are a list in what options name.

    Raises:
        ValueError: there is one that is no list.
    """
    found = cfg.get('param_scheduler') or []
    if isinstance(found, dict):
        raise ValueError(
            f'param_scheduler of {cfg.filename} must be a list, so that '
            'options can name its entries; write [dict(...)]'
        )
    return found

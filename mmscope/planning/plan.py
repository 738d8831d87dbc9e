"""The plan of a training: memory, schedule, time and the command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from mmengine.config import Config
from torch import nn

from mmscope.benchmark.build import build_model
from mmscope.engine.options import set_amp
from mmscope.utils.config import type_name

from .command import plan_command
from .devices import HERE, Device, find_device
from .lengths import (
    count_iterations,
    training_length,
    validation_batches,
)
from .memory import count_state, largest_batch, memory_parts
from .remedies import Place, Remedy, find_remedies, kept_by
from .schedule import Loop, Schedule, choose_schedule, read_loop
from .steps import StepTimes, time_here
from .work import Range, Work, step_milliseconds, training_work

AMP_WRAPPERS = ('AmpOptimWrapper', 'BFloat16OptimWrapper')
MS_PER_HOUR = 3.6e6


@dataclass(frozen=True)
class Plan:
    """What a training needs, and how it is run.

    Attributes:
        config: Config file.
        device: What it runs on.
        amp: Whether in mixed precision.
        schedule: Batch, accumulation, learning rate.
        parts: Bytes of a process by what they are for.
        most: The most images of a process that fit.
        remedies: What else could be done, where it does not fit.
        work: Multiply-adds of an image.
        iterations: Training steps of a process.
        step: Milliseconds of a step, None where nothing was timed.
        hours: Of the whole training by the clock, None likewise.
        measured: What was timed here, None where time is an estimate.
        command: What runs the plan, as a line of a shell.
    """

    config: str
    device: Device
    amp: bool
    schedule: Schedule
    parts: dict[str, float]
    most: int
    remedies: tuple[Remedy, ...]
    work: Work
    iterations: int
    step: Range | None
    hours: Range | None
    measured: StepTimes | None
    command: str

    @property
    def memory(self) -> float:
        """Bytes of a process."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether the device has as much memory."""
        return self.memory <= self.device.memory

    @property
    def images(self) -> int:
        """Images of the whole training, each time that one is shown."""
        return self.iterations * self.schedule.batch * self.schedule.gpus

    def record(self) -> dict:
        """Plain data, for a json file."""
        derived = dict(
            memory=self.memory,
            fits=self.fits,
            images=self.images,
            total_batch=self.schedule.total,
        )
        return asdict(self) | derived


def make_plan(
    cfg: Config,
    device: str = HERE,
    gpus: int = 1,
    batch: int | None = None,
    amp: bool = False,
    num_images: int | None = None,
    changes: Mapping[str, object] | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Plan the training of a config.

    Args:
        cfg: Complete config.
        device: Name of a device of the table, or 'here'.
        gpus: Number of processes.
        batch: Images of a process; default what keeps the config's batch,
            and 'here' the config's own.
        amp: Whether to train in mixed precision.
        num_images: Images of the training set, where its files are not here.
        changes: Settings that were changed in the config, for the command.
        tell: Called with what is done next.

    Raises:
        ValueError: an argument is out of range, the device unknown, or the
            config does not train.
        FileNotFoundError: a training that counts epochs has no data here,
            and ``num_images`` is not given.
    """
    _check_numbers(gpus, batch, num_images)
    found, loop = find_device(device), read_loop(cfg)
    length = training_length(cfg, loop, num_images)
    asked, amp = amp, amp or type_name(cfg.optim_wrapper) in AMP_WRAPPERS
    on_gpu = device != HERE or torch.cuda.is_available()
    place = Place(found.memory, gpus, on_gpu)
    model = build_model(cfg).train()
    alpha = getattr(model.backbone, 'alpha', None)
    if alpha is not None:
        model.backbone.alpha = 1.0  # as trained at first, and the most
    if device == HERE:
        batch = batch or loop.batch
    needs = _plan_memory(cfg, model, place, batch, amp, tell)
    schedule, work = needs.schedule, training_work(cfg, model)
    iterations = count_iterations(cfg, loop, schedule, length)
    step = hours = measured = None
    if device != HERE:
        step = step_milliseconds(work, schedule.batch, found, amp)
        hours = Range(*(iterations * ms / MS_PER_HOUR for ms in step))
    elif sum(needs.parts.values()) <= found.memory:
        run = _to_run(cfg, schedule, asked)
        measured = time_here(run, model, alpha, tell)
        step = Range(1e3 * measured.step, 1e3 * measured.step)
        one = _hours_here(cfg, loop, gpus, iterations, measured)
        hours = Range(one, one)
    line = plan_command(cfg.filename, schedule, asked, changes)
    return Plan(
        *(cfg.filename, found, amp, *needs, work),
        *(iterations, step, hours, measured, line),
    )


class _Needs(NamedTuple):
    """Memory, and the schedule that follows; see :class:`Plan`."""

    schedule: Schedule
    parts: dict[str, float]
    most: int
    remedies: tuple[Remedy, ...]


def _plan_memory(
    cfg: Config,
    model: nn.Module,
    place: Place,
    batch: int | None,
    amp: bool,
    tell: Callable[[str], None],
) -> _Needs:
    """Choose a schedule that fits; where none does, find remedies."""
    state, kept = count_state(cfg, model), kept_by(cfg, model, amp, tell)
    gpus, on_gpu = place.gpus, place.on_gpu
    most = largest_batch(state, kept, place.memory, gpus, on_gpu)
    schedule = choose_schedule(cfg, gpus, most, batch)
    parts = memory_parts(state, kept, schedule.batch, gpus, on_gpu)
    remedies = ()
    if sum(parts.values()) > place.memory:
        remedies = find_remedies(
            *(cfg, model, state, kept, amp, schedule.batch, place, tell)
        )
    return _Needs(schedule, parts, most, remedies)


def _hours_here(
    cfg: Config, loop: Loop, gpus: int, iterations: int, measured: StepTimes
) -> float:
    """Hours of the whole training by what was timed, validation included."""
    seconds = iterations * measured.step
    if measured.val_batch is not None:
        batches = validation_batches(cfg, loop, gpus)
        seconds += batches * measured.val_batch
    return seconds / 3600


def _to_run(cfg: Config, schedule: Schedule, amp: bool) -> Config:
    """The config as the plan trains it."""
    run = deepcopy(cfg)
    run.merge_from_dict(schedule.options)
    if amp:
        set_amp(run)
    return run


def _check_numbers(
    gpus: int, batch: int | None, num_images: int | None
) -> None:
    given = {
        '--gpus': gpus,
        '--batch-size': batch,
        '--num-images': num_images,
    }
    for key, value in given.items():
        if value is not None and value < 1:
            raise ValueError(f'{key} must be at least 1, got {value}')

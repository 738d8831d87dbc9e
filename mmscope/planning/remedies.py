"""What would fit where a plan does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mmengine.config import Config
from torch import nn

from .activations import (
    Activations,
    checkpointed,
    measure_activations,
    uses_checkpoints,
)
from .memory import State, largest_batch, memory_parts

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """Where a process runs.

    Attributes:
        memory: Bytes of the device.
        gpus: Number of processes.
        on_gpu: Whether it is a GPU.
    """

    memory: int
    gpus: int
    on_gpu: bool


@dataclass(frozen=True)
class Remedy:
    """A change, and what a process would need with it.

    Attributes:
        name: In words.
        memory: Bytes at the planned batch.
        most: The most images that would fit.
    """

    name: str
    memory: float
    most: int


def kept_by(
    cfg: Config, model: nn.Module, amp: bool, tell: Tell
) -> Activations:
    """What autograd keeps of a config as it is.

    Args:
        cfg: Complete config.
        model: Model of the config, in training.
        amp: Whether it runs in mixed precision.
        tell: Called with what is done next.
    """
    if uses_checkpoints(model):
        return checkpointed(cfg, model, amp, tell=tell)
    return measure_activations(cfg, model, amp, tell)


def find_remedies(
    cfg: Config,
    model: nn.Module,
    state: State,
    kept: Activations,
    amp: bool,
    batch: int,
    place: Place,
    tell: Tell,
) -> tuple[Remedy, ...]:
    """Measure what else could be done, and what each would need.

    Args:
        cfg: Complete config.
        model: Model of the config, in training.
        state: What a process has of its model.
        kept: What autograd keeps of it as it is.
        amp: Whether it runs in mixed precision.
        batch: Images of a process that do not fit.
        place: Where it runs.
        tell: Called with what is done next.
    """

    def remedy(name: str, kept: Activations, batch: int) -> Remedy:
        parts = memory_parts(state, kept, batch, place.gpus, place.on_gpu)
        most = largest_batch(
            state, kept, place.memory, place.gpus, place.on_gpu
        )
        return Remedy(name, sum(parts.values()), most)

    found = []
    if batch > 1:
        smaller = max(1, remedy('', kept, batch).most)
        found.append(remedy(f'--batch-size {smaller}', kept, smaller))
    for name, changed in _measured(cfg, model, kept, amp, tell):
        found.append(remedy(name, changed, batch))
    return tuple(found)


def _measured(
    cfg: Config,
    model: nn.Module,
    kept: Activations,
    amp: bool,
    tell: Tell,
) -> Iterator[tuple[str, Activations]]:
    """Each combination of mixed precision and checkpoints that is new."""
    option, has_both = 'model.backbone.with_cp=True', uses_checkpoints(model)
    if not has_both:
        tell('activation checkpointing')
        if less := checkpointed(cfg, model, amp, kept, tell):
            yield option, less
    if amp:
        return
    tell('mixed precision')
    plain = kept_by(cfg, model, True, tell)
    yield '--amp', plain
    if not has_both and (less := checkpointed(cfg, model, True, plain, tell)):
        yield f'--amp, {option}', less

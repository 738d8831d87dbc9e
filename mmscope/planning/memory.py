"""Memory of a training step, by its parts.

Weights, gradients, optimizer states and averages are counted exactly; of what
autograd keeps see ``activations``. Temporary tensors are not measured: on an
H100 the peak of Vim-T's training step lies 7 to 8 % above what autograd
keeps, see docs/distributed.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.registry import HOOKS, OPTIMIZERS
from torch import Tensor, nn

from mmscope.utils.config import type_name

from .activations import Activations

# what is assumed: temporary tensors and fragments beside what is saved, twice
# what the H100 took; context, libraries and their workspace on a GPU
TEMPORARY_SHARE = 0.15
GPU_CONTEXT = 2**30


@dataclass(frozen=True)
class State:
    """Bytes of a process that do not depend on its batch."""

    weights: int
    gradients: int
    optimizer: int
    averages: int


def count_state(cfg: Config, model: nn.Module) -> State:
    """Count what a process has of its model, whatever its batch.

    Args:
        cfg: Complete config, with an optimizer.
        model: Model of the config, on any device.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    weights = size_of([*model.parameters(), *model.buffers()])
    return State(
        weights,
        size_of(trained),
        _optimizer_bytes(cfg, trained),
        weights if averages_weights(cfg) else 0,
    )


def size_of(tensors: list[Tensor]) -> int:
    """Bytes of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


def averages_weights(cfg: Config) -> bool:
    """Whether a hook of the config keeps averaged weights."""
    hooks = [*(cfg.get('default_hooks') or {}).values()]
    hooks += cfg.get('custom_hooks') or []
    kinds = [HOOKS.get(type_name(h)) for h in hooks if type_name(h)]
    return any(kind and issubclass(kind, EMAHook) for kind in kinds)


def _optimizer_bytes(cfg: Config, trained: list[Tensor]) -> int:
    """States of the config's optimizer, from a step on the meta device."""
    empty = [nn.Parameter(torch.empty_like(p, device='meta')) for p in trained]
    for parameter in empty:
        parameter.grad = torch.empty_like(parameter)
    options = dict(cfg.optim_wrapper.optimizer, params=empty)
    optimizer = OPTIMIZERS.build(options)
    optimizer.step()
    return size_of(
        [
            value
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]
    )


def memory_parts(
    state: State, kept: Activations, batch: int, gpus: int, on_gpu: bool
) -> dict[str, float]:
    """Bytes of a process by what they are for.

    Args:
        state: What it has of its model.
        kept: What autograd keeps.
        batch: Images of a process.
        gpus: Number of processes; several gather gradients in buckets.
        on_gpu: Whether it runs on a GPU.
    """
    activations = kept.of(batch)
    return {
        'weights': state.weights,
        'gradients': state.gradients,
        'buckets of gradients': state.gradients if gpus > 1 else 0,
        'optimizer states': state.optimizer,
        'averaged weights (EMA)': state.averages,
        'activations for backward': activations,
        'temporary (assumed)': TEMPORARY_SHARE * activations,
        'context, libraries (assumed)': GPU_CONTEXT if on_gpu else 0,
    }


def largest_batch(
    state: State, kept: Activations, memory: int, gpus: int, on_gpu: bool
) -> int:
    """The most images of a process that fit, 0 if not even one.

    Args:
        state: What it has of its model.
        kept: What autograd keeps.
        memory: Bytes of the device.
        gpus: Number of processes.
        on_gpu: Whether it runs on a GPU.
    """
    empty = sum(memory_parts(state, kept, 0, gpus, on_gpu).values())
    each = sum(memory_parts(state, kept, 1, gpus, on_gpu).values()) - empty
    return max(0, int((memory - empty) // each))

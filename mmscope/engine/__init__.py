"""Hooks, layer-wise learning rates, and what the tools do before a run."""

from .checkpoint_hooks import PlainCheckpointHook, RandomStateHook
from .hooks import AlphaScheduleHook, FiniteLossHook
from .layer_decay import LayerDecayConstructor

__all__ = [
    'AlphaScheduleHook',
    'FiniteLossHook',
    'LayerDecayConstructor',
    'PlainCheckpointHook',
    'RandomStateHook',
]

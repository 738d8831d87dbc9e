"""Hooks, layer-wise learning rates, and what the tools do before a run."""

from .hooks import AlphaScheduleHook, FiniteLossHook, RandomStateHook
from .layer_decay import LayerDecayConstructor

__all__ = [
    'AlphaScheduleHook',
    'FiniteLossHook',
    'LayerDecayConstructor',
    'RandomStateHook',
]

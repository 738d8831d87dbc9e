"""Hooks, layer-wise learning rates, and what the tools do before a run."""

from .autocast import BFloat16OptimWrapper
from .checkpoint_hooks import PlainCheckpointHook, RandomStateHook
from .hooks import AlphaScheduleHook, FiniteLossHook
from .layer_decay import LayerDecayConstructor
from .safe_saving import SafeCheckpointHook, StopHook

__all__ = [
    'AlphaScheduleHook',
    'BFloat16OptimWrapper',
    'FiniteLossHook',
    'LayerDecayConstructor',
    'PlainCheckpointHook',
    'RandomStateHook',
    'SafeCheckpointHook',
    'StopHook',
]

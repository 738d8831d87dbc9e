"""Hooks, and what the tools do before a run."""

from .hooks import AlphaScheduleHook, FiniteLossHook, RandomStateHook

__all__ = ['AlphaScheduleHook', 'FiniteLossHook', 'RandomStateHook']

"""Metrics of early exit."""

from .exit_hook import ExitStatisticsHook
from .exit_metric import ExitMetric

__all__ = ['ExitMetric', 'ExitStatisticsHook']

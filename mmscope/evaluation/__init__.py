"""Metrics of early exit."""

from .exit_metric import ExitMetric

__all__ = ['ExitMetric']

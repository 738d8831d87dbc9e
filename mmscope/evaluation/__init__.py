"""Metrics of early exit."""

from .exit_evaluator import ExitEvaluator
from .exit_metric import ExitMetric

__all__ = ['ExitEvaluator', 'ExitMetric']

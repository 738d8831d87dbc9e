"""Measurements: the functions behind the tools."""

from .exit_sweep import (
    ExitAnswers,
    collect_answers,
    exit_auroc,
    oracle_curve,
    random_curve,
    sweep_eta,
)

__all__ = [
    'ExitAnswers',
    'collect_answers',
    'exit_auroc',
    'oracle_curve',
    'random_curve',
    'sweep_eta',
]

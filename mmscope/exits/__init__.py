"""Choosing eta: both answers collected, replayed, calibrated, reported."""

from .answers import ExitAnswers, ImageAnswers
from .cache import AnswerCache
from .calibration import BUDGETS, BudgetError, Calibration, calibrate_eta
from .collect import (
    collect_answers,
    count_gflops,
    device_name,
    measure_fps,
)
from .replay import (
    confidence_curve,
    exit_auroc,
    oracle_curve,
    random_curve,
    replay,
    share_of_oracle,
    stage_counts,
    summarize,
    sweep_eta,
)

__all__ = [
    'BUDGETS',
    'AnswerCache',
    'BudgetError',
    'Calibration',
    'ExitAnswers',
    'ImageAnswers',
    'calibrate_eta',
    'collect_answers',
    'confidence_curve',
    'count_gflops',
    'device_name',
    'exit_auroc',
    'measure_fps',
    'oracle_curve',
    'random_curve',
    'replay',
    'share_of_oracle',
    'stage_counts',
    'summarize',
    'sweep_eta',
]

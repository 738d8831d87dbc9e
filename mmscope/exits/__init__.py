"""Measurements: the functions behind the tools."""

from .answers import (
    AnswerCache,
    ExitAnswers,
    ImageAnswers,
    check_exits,
    collect_answers,
    count_gflops,
    measure_fps,
)
from .calibration import BUDGETS, BudgetError, Calibration, calibrate_eta
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
    'check_exits',
    'collect_answers',
    'confidence_curve',
    'count_gflops',
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

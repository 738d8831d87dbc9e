"""Choosing eta: both answers collected, replayed, calibrated, reported."""

from mmscope.models import is_elastic

from .answering import device_name, measure_fps
from .answers import ExitAnswers, ImageAnswers
from .cache import AnswerCache
from .calibration import BUDGETS, BudgetError, Calibration, calibrate_eta
from .collect import collect_answers, count_gflops
from .collect_elastic import collect_elastic, count_share_gflops
from .elastic import ElasticAnswers, ElasticImage, frontier, sweep_elastic
from .elastic_calibration import ElasticCalibration, calibrate_elastic
from .replay import (
    confidence_curve,
    exit_auroc,
    oracle_curve,
    random_curve,
    replay,
    share_of_oracle,
    summarize,
    sweep_eta,
)
from .stages import count_stages

__all__ = [
    'BUDGETS',
    'AnswerCache',
    'BudgetError',
    'Calibration',
    'ElasticAnswers',
    'ElasticCalibration',
    'ElasticImage',
    'ExitAnswers',
    'ImageAnswers',
    'calibrate_elastic',
    'calibrate_eta',
    'collect_answers',
    'collect_elastic',
    'confidence_curve',
    'count_gflops',
    'count_share_gflops',
    'count_stages',
    'device_name',
    'exit_auroc',
    'frontier',
    'is_elastic',
    'measure_fps',
    'oracle_curve',
    'random_curve',
    'replay',
    'share_of_oracle',
    'summarize',
    'sweep_elastic',
    'sweep_eta',
]

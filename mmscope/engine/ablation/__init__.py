"""Ablations of the paper: rows trained, tested and set beside its figures."""

from .report import ablation_table, remarks, write_report
from .rows import AblationRun, RowResult
from .settings import DATASETS, data_options, epoch_options
from .tables import PaperRow, PaperTable, find_table, read_tables

__all__ = [
    'DATASETS',
    'AblationRun',
    'PaperRow',
    'PaperTable',
    'RowResult',
    'ablation_table',
    'data_options',
    'epoch_options',
    'find_table',
    'read_tables',
    'remarks',
    'write_report',
]

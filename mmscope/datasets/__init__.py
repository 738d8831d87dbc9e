"""Data: labels, loading, and the sample data."""

from .mini_imagenet import write_mini_imagenet
from .sample.data import write_sample_data
from .sample.shapes import SAMPLE_CLASSES, SAMPLE_PALETTE
from .sample.sheet import draw_contact_sheet
from .transforms import CheckLabels, LoadChecked, LoadMask

__all__ = [
    'SAMPLE_CLASSES',
    'SAMPLE_PALETTE',
    'CheckLabels',
    'LoadChecked',
    'LoadMask',
    'draw_contact_sheet',
    'write_mini_imagenet',
    'write_sample_data',
]

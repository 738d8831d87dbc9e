"""Data: labels, loading, and the sample data."""

from .mini_imagenet import write_mini_imagenet
from .sample.data import write_sample_data
from .sample.shapes import SAMPLE_CLASSES, SAMPLE_PALETTE
from .sample.sheet import draw_contact_sheet
from .soft_labels import LoadSoftLabels, save_soft_labels
from .transforms import CheckLabels, LoadChecked, LoadMask

__all__ = [
    'SAMPLE_CLASSES',
    'SAMPLE_PALETTE',
    'CheckLabels',
    'LoadChecked',
    'LoadMask',
    'LoadSoftLabels',
    'draw_contact_sheet',
    'save_soft_labels',
    'write_mini_imagenet',
    'write_sample_data',
]

"""Data: labels, loading, and the sample data."""

from mmscope.functional.targets import classes_in_instances, classes_in_mask

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
    'classes_in_instances',
    'classes_in_mask',
    'draw_contact_sheet',
    'write_sample_data',
]

"""Data: labels, loading, and the sample data."""

from .labels import classes_in_instances, classes_in_mask
from .transforms import LoadChecked

__all__ = ['LoadChecked', 'classes_in_instances', 'classes_in_mask']

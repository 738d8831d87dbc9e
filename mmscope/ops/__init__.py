"""Selective scan operators: one entry, several backends.

The package needs torch only and imports nothing else of mmscope.
"""

from .backends import scan_backends, use_backend
from .conv.entry import bidirectional_conv
from .norm.entry import add_rms_norm, rms_norm
from .scan.entry import (
    bidirectional_scan,
    directional_scan,
    selective_scan,
)

__all__ = [
    'add_rms_norm',
    'bidirectional_conv',
    'bidirectional_scan',
    'directional_scan',
    'rms_norm',
    'scan_backends',
    'selective_scan',
    'use_backend',
]

"""Selective scan operators: one entry, several backends.

The package needs torch only and imports nothing else of mmscope.
"""

from .causal_conv import bidirectional_conv
from .rms_norm import rms_norm
from .selective_scan import (
    bidirectional_scan,
    scan_backends,
    selective_scan,
    use_backend,
)

__all__ = [
    'bidirectional_conv',
    'bidirectional_scan',
    'rms_norm',
    'scan_backends',
    'selective_scan',
    'use_backend',
]

"""Selective scan operators: one entry, several backends.

The package needs torch only and imports nothing else of mmscope.
"""

from .selective_scan import (
    bidirectional_scan,
    scan_backends,
    selective_scan,
    use_backend,
)

__all__ = [
    'bidirectional_scan',
    'scan_backends',
    'selective_scan',
    'use_backend',
]

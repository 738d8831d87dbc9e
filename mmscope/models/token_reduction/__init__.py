"""Other people's ways to run Vision Mamba on fewer tokens."""

from .base import (
    Reduced,
    TokenReduction,
    build_reduction,
    collect_sequences,
)
from .dynamic import DynamicTokens
from .hidden_align import HiddenAlignPruning
from .merging import TokenMerging

__all__ = [
    'DynamicTokens',
    'HiddenAlignPruning',
    'Reduced',
    'TokenMerging',
    'TokenReduction',
    'build_reduction',
    'collect_sequences',
]

"""Backbones, heads and segmentors."""

from mmscope.utils.versions import installed_version

from .exit_head import MultiLabelExitHead, SingleLabelExitHead
from .exit_policies import (
    ExitPolicy,
    HeadConfidence,
    LearnedRouter,
    OracleExit,
    PixelConfidence,
    RandomExit,
)
from .mambascope import MambaScopeBackbone
from .scope_result import ScopeResult
from .vision_mamba import VisionMambaBackbone

__all__ = [
    'ExitPolicy',
    'HeadConfidence',
    'LearnedRouter',
    'MambaScopeBackbone',
    'MultiLabelExitHead',
    'OracleExit',
    'PixelConfidence',
    'RandomExit',
    'ScopeResult',
    'SingleLabelExitHead',
    'VisionMambaBackbone',
]

if installed_version('mmseg') is not None:
    from .segmentor import MambaScopeSegmentor, ScopeSegDataPreprocessor

    __all__ += ['MambaScopeSegmentor', 'ScopeSegDataPreprocessor']

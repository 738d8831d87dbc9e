"""Backbones, heads and segmentors."""

from mmscope.utils.versions import installed_version

from .exit_head import MultiLabelExitHead, SingleLabelExitHead
from .fine_queue import FineQueue
from .mambascope import MambaScopeBackbone
from .scope_result import ScopeResult
from .vision_mamba import VisionMambaBackbone

__all__ = [
    'FineQueue',
    'MambaScopeBackbone',
    'MultiLabelExitHead',
    'ScopeResult',
    'SingleLabelExitHead',
    'VisionMambaBackbone',
]

if installed_version('mmseg') is not None:
    from .segmentor import MambaScopeSegmentor, ScopeSegDataPreprocessor

    __all__ += ['MambaScopeSegmentor', 'ScopeSegDataPreprocessor']

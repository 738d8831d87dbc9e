"""Backbones, necks, heads, segmentors and detectors."""

from mmscope.utils import (
    operator_flops,  # noqa: F401 - tells mmengine what operators cost
)
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
from .fine_queue import FineQueue
from .mambascope import MambaScopeBackbone
from .necks import LayerNorm2d, SimpleFeaturePyramid
from .stages import ScopeResult
from .vision_mamba import VisionMambaBackbone

__all__ = [
    'ExitPolicy',
    'HeadConfidence',
    'LearnedRouter',
    'LayerNorm2d',
    'FineQueue',
    'MambaScopeBackbone',
    'MultiLabelExitHead',
    'OracleExit',
    'PixelConfidence',
    'RandomExit',
    'ScopeResult',
    'SimpleFeaturePyramid',
    'SingleLabelExitHead',
    'VisionMambaBackbone',
]

if installed_version('mmseg') is not None:
    from .segmentor import MambaScopeSegmentor, ScopeSegDataPreprocessor
    from .vision_transformer import FusedVisionTransformer

    __all__ += [
        'FusedVisionTransformer',
        'MambaScopeSegmentor',
        'ScopeSegDataPreprocessor',
    ]

if installed_version('mmdet') is not None:
    from .detector import DetectorExits, MambaScopeCascadeRCNN

    __all__ += ['DetectorExits', 'MambaScopeCascadeRCNN']

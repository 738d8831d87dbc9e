"""Backbones, necks, heads, segmentors, detectors and classifiers."""

from importlib import import_module

from mmscope.registry import MODELS
from mmscope.utils import (
    operator_flops,  # noqa: F401 - tells mmengine what operators cost
)

from .cell_scores import (
    CellContrast,
    CellScore,
    CoarseUncertainty,
    Importance,
    LearnedCells,
    OracleCells,
    RandomCells,
)
from .early_exit import EarlyExitMixin
from .evidence import Evidence
from .exit_control import (
    coarse_answers,
    collect_passes,
    exit_settings,
    has_exits,
    is_elastic,
    require_exits,
)
from .exit_head import MultiLabelExitHead, SingleLabelExitHead
from .exit_policies import (
    ExitPolicy,
    ForcedExit,
    HeadConfidence,
    LearnedRouter,
    OracleExit,
    PixelConfidence,
    RandomExit,
    image_key,
)
from .mambascope import MambaScopeBackbone
from .necks import LayerNorm2d, SimpleFeaturePyramid
from .scope_result import ScopeResult
from .token_reduction import (
    DynamicTokens,
    HiddenAlignPruning,
    TokenMerging,
    TokenReduction,
)
from .vim import VisionMambaBackbone

__all__ = [
    'CellContrast',
    'CellScore',
    'CoarseUncertainty',
    'DynamicTokens',
    'EarlyExitMixin',
    'Evidence',
    'ExitPolicy',
    'ForcedExit',
    'HeadConfidence',
    'HiddenAlignPruning',
    'Importance',
    'LayerNorm2d',
    'LearnedCells',
    'LearnedRouter',
    'MambaScopeBackbone',
    'MultiLabelExitHead',
    'OracleCells',
    'OracleExit',
    'PixelConfidence',
    'RandomCells',
    'RandomExit',
    'ScopeResult',
    'SimpleFeaturePyramid',
    'SingleLabelExitHead',
    'TokenMerging',
    'TokenReduction',
    'VisionMambaBackbone',
    'coarse_answers',
    'collect_passes',
    'exit_settings',
    'has_exits',
    'image_key',
    'is_elastic',
    'require_exits',
]

# what each module brings that needs a library beside mmengine
_OPTIONAL = {
    '.data_preprocessor': ('ScopeSegDataPreprocessor',),
    '.segmentor': ('MambaScopeSegmentor',),
    '.reduced_segmentor': ('ReducedSegmentor',),
    '.vision_transformer': ('FusedVisionTransformer',),
    '.classifier': ('MambaScopeClassifier',),
    '.distilled': ('DistilledClassifier',),
    '.detector': ('DetectorExits', 'MambaScopeCascadeRCNN'),
    '.roi_heads': ('SharedMaskCascadeRoIHead',),
}
_MISSING: dict[str, Exception] = {}


def _refusal(name: str) -> ImportError:
    """Why a class is not there, with its cause."""
    error = ImportError(f'mmscope.{name} cannot be used: {_MISSING[name]}')
    error.__cause__ = _MISSING[name]
    return error


def _refuse(name: str) -> None:
    """Let a config that names the class be told why it is not there."""

    def refuse(*_: object, **__: object) -> None:
        raise _refusal(name)

    MODELS.register_module(name=name, module=refuse, force=True)


for _module, _names in _OPTIONAL.items():
    try:
        _found = import_module(_module, __name__)
    # a broken or old library raises anything, mmseg an AssertionError; those
    # who use another one must not notice
    except Exception as _error:  # noqa: BLE001
        _MISSING.update(dict.fromkeys(_names, _error))
        for _name in _names:
            _refuse(_name)
    else:
        globals().update({_name: getattr(_found, _name) for _name in _names})
        __all__ += _names


def __getattr__(name: str) -> object:
    if name in _MISSING:
        raise _refusal(name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

"""MambaScope, coarse-to-fine early-exit Vision Mamba, for OpenMMLab."""

from .utils.versions import require
from .version import __version__

for _name in ('torch', 'mmengine', 'mmcv'):
    require(_name)

__all__ = ['__version__']

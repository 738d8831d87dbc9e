"""MambaScope, coarse-to-fine early-exit Vision Mamba, for OpenMMLab.

``mmscope.ops`` works with torch alone; all else needs mmengine and mmcv, which
``registry`` asks for.
"""

from .utils.versions import installed_version, require
from .version import __version__

require('torch')
for _name in ('mmengine', 'mmcv'):
    if installed_version(_name) is not None:
        require(_name)

__all__ = ['__version__']

"""Child registries of mmscope.

Their scope is ``mmscope``: ``type='mmscope.X'`` in any config imports this
file and then the modules named in ``locations``, so that no config needs
``custom_imports``. Keep heavy imports out of this file; mmengine swallows an
ImportError raised here.
"""

from .utils.versions import require

for _name in ('mmengine', 'mmcv'):
    require(_name)

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
)
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmscope',
    locations=['mmscope.models'],
)
TRANSFORMS = Registry(
    'transform',
    parent=MMENGINE_TRANSFORMS,
    scope='mmscope',
    locations=['mmscope.datasets'],
)
HOOKS = Registry(
    'hook',
    parent=MMENGINE_HOOKS,
    scope='mmscope',
    locations=[
        'mmscope.engine',
        'mmscope.evaluation',
        'mmscope.visualization',
    ],
)
METRICS = Registry(
    'metric',
    parent=MMENGINE_METRICS,
    scope='mmscope',
    locations=['mmscope.evaluation'],
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmscope',
    locations=['mmscope.engine'],
)

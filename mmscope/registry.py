"""Child registries of mmscope.

Their scope is ``mmscope``: ``type='mmscope.X'`` in any config imports this
file and then the modules named in ``locations``, so that no config needs
``custom_imports``. Keep heavy imports out of this file; mmengine swallows an
ImportError raised here.
"""

from .utils.versions import require

for _name in ('mmengine', 'mmcv'):
    require(_name)

from mmengine import registry
from mmengine.config.utils import MODULE2PACKAGE

# Lets configs inherit from 'mmscope::...' once the package is imported. The
# classic mmengine looks for the folder of a distribution, which is another one
# where mmscope is installed as editable; by the name of a module it finds it.
MODULE2PACKAGE['mmscope'] = 'mmscope.version'
# mmengine looks for a distribution mmsegmentation, and OneDL's has another
# name; by the name of the module it finds either
MODULE2PACKAGE['mmseg'] = 'mmseg'

MODELS = registry.Registry(
    'model',
    parent=registry.MODELS,
    scope='mmscope',
    locations=['mmscope.models'],
)
TRANSFORMS = registry.Registry(
    'transform',
    parent=registry.TRANSFORMS,
    scope='mmscope',
    locations=['mmscope.datasets'],
)
HOOKS = registry.Registry(
    'hook',
    parent=registry.HOOKS,
    scope='mmscope',
    locations=[
        'mmscope.engine',
        'mmscope.evaluation',
        'mmscope.visualization',
    ],
)
METRICS = registry.Registry(
    'metric',
    parent=registry.METRICS,
    scope='mmscope',
    locations=['mmscope.evaluation'],
)
OPTIM_WRAPPERS = registry.Registry(
    'optimizer wrapper',
    parent=registry.OPTIM_WRAPPERS,
    scope='mmscope',
    locations=['mmscope.engine'],
)
OPTIM_WRAPPER_CONSTRUCTORS = registry.Registry(
    'optimizer wrapper constructor',
    parent=registry.OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmscope',
    locations=['mmscope.engine'],
)

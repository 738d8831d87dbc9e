"""Check an environment: everything imports, and the right OpenCV is there."""

import importlib
import sys
from importlib import metadata

MODULES = ('cv2', 'mmcv.ops', 'mmseg.apis', 'mmdet.apis', 'mmpretrain')
DISTRIBUTIONS = {dist.metadata['Name'] for dist in metadata.distributions()}

if 'opencv-python' in DISTRIBUTIONS:
    sys.exit(
        'opencv-python is installed beside opencv-python-headless and '
        'overwrites it: run `make distclean`, then try again'
    )
for module in ('torch', 'torchvision', *MODULES):
    try:
        importlib.import_module(module)
    except ImportError as err:
        sys.exit(
            f'{module} is installed but does not import ({err}): '
            'run `make distclean`, then try again'
        )

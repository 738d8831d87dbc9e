"""What a line of OpenMMLab's packages does not do."""

import pytest

from mmscope.utils.versions import find_distribution

CLASSIC = find_distribution('mmengine').metadata['Name'] == 'mmengine'
resumes_exactly = pytest.mark.skipif(
    CLASSIC,
    reason='classic mmengine loads the images that a resumed run over '
    'iterations skips, and that draws random numbers',
)
imports_no_operators = pytest.mark.skipif(
    CLASSIC, reason='classic mmseg imports mmcv.ops itself'
)

"""What a library that is old or broken does to users of another one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import mmscope.models
from mmengine.registry import MODELS
import mmscope.evaluation, mmscope.exits.runs
assert mmscope.models.MambaScopeBackbone('tiny').num_layers == 24
assert '{good}' in mmscope.models.__all__
assert '{bad}' not in mmscope.models.__all__
MODELS.get('mmscope.{good}').loss
try:
    MODELS.build(dict(type='mmscope.{bad}', backbone=dict()))
except ImportError as error:
    print('built:', error)
try:
    from mmscope.models import {bad}
except ImportError as error:
    print('imported:', error)
"""
SEGMENTOR, DETECTOR = 'MambaScopeSegmentor', 'MambaScopeCascadeRCNN'
OLD = "__version__ = '0.30.0'"
BROKEN = "raise AssertionError('MMCV==9.9 is used')"


@pytest.mark.parametrize(
    ('library', 'source', 'reason', 'bad', 'good'),
    [
        ('mmseg', OLD, 'mmscope needs mmseg >= 1.2.2', SEGMENTOR, DETECTOR),
        ('mmseg', BROKEN, 'MMCV==9.9 is used', SEGMENTOR, DETECTOR),
        # a broken mmdet breaks mmseg's own imports
        ('mmdet', OLD, 'mmscope needs mmdet >= 3', DETECTOR, SEGMENTOR),
    ],
)
def test_a_bad_library_is_named_where_it_is_needed_alone(
    tmp_path, library, source, reason, bad, good
) -> None:
    (tmp_path / library).mkdir()
    (tmp_path / library / '__init__.py').write_text(source)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT.format(good=good, bad=bad)],
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=path),
    )
    assert done.returncode == 0, done.stderr
    built, imported = done.stdout.splitlines()[-2:]
    for line in (built, imported):
        assert f'{bad} cannot be used' in line
        assert reason in line

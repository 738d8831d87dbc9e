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
assert mmscope.models.MambaScopeBackbone('tiny').num_layers == 24
assert 'MambaScopeCascadeRCNN' in mmscope.models.__all__
assert 'MambaScopeSegmentor' not in mmscope.models.__all__
MODELS.get('mmscope.MambaScopeCascadeRCNN').loss
try:
    MODELS.build(dict(type='mmscope.MambaScopeSegmentor', backbone=dict()))
except ImportError as error:
    print('built:', error)
try:
    from mmscope.models import MambaScopeSegmentor
except ImportError as error:
    print('imported:', error)
"""


@pytest.mark.parametrize(
    ('source', 'reason'),
    [
        ("__version__ = '0.30.0'", r'mmscope needs mmseg >= 1.2.0, but'),
        ("raise AssertionError('MMCV==9.9 is used')", 'MMCV==9.9 is used'),
    ],
)
def test_bad_mmseg_is_named_where_it_is_needed_alone(
    tmp_path, source, reason
) -> None:
    (tmp_path / 'mmseg').mkdir()
    (tmp_path / 'mmseg' / '__init__.py').write_text(source)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT],
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=path),
    )
    assert done.returncode == 0, done.stderr
    built, imported = done.stdout.splitlines()[-2:]
    for line in (built, imported):
        assert 'MambaScopeSegmentor cannot be used' in line
        assert reason in line

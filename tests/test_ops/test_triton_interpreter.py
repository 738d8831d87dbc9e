"""Run the tests of the Triton kernels on the CPU, in a process of their own.

``TRITON_INTERPRET`` must be set before Triton is imported, and then holds for
the whole process, where it would change torch.compile for other tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
FILES = [
    'test_scan/test_triton.py',
    'test_norm/test_triton_norm.py',
    'test_conv/test_triton_conv.py',
    'test_triton_block.py',
]


def run(path: Path, *arguments: str, **environment: str) -> dict[str, int]:
    """Run pytest in a subprocess; the counts of its report."""
    report = path / 'report.xml'
    command = [sys.executable, '-m', 'pytest', '--noconftest', '-q']
    command += ['-p', 'no:cacheprovider', f'--junitxml={report}', *arguments]
    result = subprocess.run(
        command,
        cwd=FOLDER,
        env={**os.environ, 'OMP_NUM_THREADS': '1', **environment},
        capture_output=True,
        text=True,
    )
    print(result.stdout[-20000:], result.stderr[-5000:])
    suite = ET.parse(report).getroot().find('testsuite')
    names = ('tests', 'failures', 'errors', 'skipped')
    return {name: int(suite.get(name)) for name in names}


def check(counts: dict[str, int]) -> None:
    assert counts.pop('tests') > 0
    assert counts == {'failures': 0, 'errors': 0, 'skipped': 0}


@pytest.mark.parametrize('name', FILES)
def test_kernels_in_the_interpreter(tmp_path, name):
    pytest.importorskip('triton')
    check(run(tmp_path, name, TRITON_INTERPRET='1'))


@pytest.mark.slow
@pytest.mark.parametrize('name', FILES)
def test_slow_kernels_in_the_interpreter(tmp_path, name):
    pytest.importorskip('triton')
    counts = run(tmp_path, name, '-m', 'slow', TRITON_INTERPRET='1')
    if name == FILES[0]:
        check(counts)


def test_every_file_of_kernels_is_run():
    found = {
        str(path.relative_to(FOLDER))
        for path in FOLDER.rglob('test_*.py')
        if 'triton_cases' in path.read_text()
    }
    assert found - {Path(__file__).name} == set(FILES)

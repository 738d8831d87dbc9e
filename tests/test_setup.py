"""The set-up files agree with each other."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from mmscope.utils.versions import DISTRIBUTIONS, MINIMUM_VERSIONS

ROOT = Path(__file__).parents[1]


def read_requirements(name: str) -> list[Requirement]:
    lines = (ROOT / 'requirements' / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and line[0] != '#']


def setup_arguments() -> dict:
    tree = ast.parse((ROOT / 'setup.py').read_text())
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    (call,) = [c for c in calls if getattr(c.func, 'id', '') == 'setup']
    wanted = {'install_requires', 'extras_require'}
    return {
        keyword.arg: ast.literal_eval(keyword.value)
        for keyword in call.keywords
        if keyword.arg in wanted
    }


def normalise(name: str) -> str:
    return re.sub(r'[-_.]+', '-', name).lower()


PINS = {normalise(r.name): r for r in read_requirements('constraints.txt')}
REQUIREMENT_FILES = (
    *('build', 'torch', 'runtime', 'mm', 'dev'),
    *('docs', 'release', 'export'),
)


@pytest.mark.parametrize('name', REQUIREMENT_FILES)
def test_every_requirement_is_pinned(name: str) -> None:
    requirements = read_requirements(f'{name}.txt')
    assert requirements
    for requirement in requirements:
        pin = PINS[normalise(requirement.name)]
        assert [s.operator for s in pin.specifier] == ['==']


def test_opencv_with_libgl_cannot_be_installed() -> None:
    assert str(PINS['opencv-python'].specifier) == '<0'
    assert 'opencv-python-headless' in PINS


def test_plain_install_pulls_no_mm_package() -> None:
    names = {
        normalise(Requirement(r).name)
        for r in setup_arguments()['install_requires']
    }
    mm = {d for pair in DISTRIBUTIONS.values() for d in pair}
    assert 'torch' in names
    assert not names & mm


def test_extra_mm_is_the_tested_set() -> None:
    extra = setup_arguments()['extras_require']['mm']
    # pip brings along what these need, such as imaug, by itself
    tested = {
        str(PINS[normalise(r.name)])
        for r in read_requirements('mm.txt')
        if r.name.startswith('onedl-')
    }
    assert {r for r in extra if r.startswith('onedl-')} == tested


def test_minimum_torch_is_the_same_everywhere() -> None:
    requires = setup_arguments()['install_requires']
    (torch,) = [r for r in map(Requirement, requires) if r.name == 'torch']
    (specifier,) = torch.specifier
    assert specifier.operator == '>='
    assert Version(specifier.version) == Version(MINIMUM_VERSIONS['torch'])


def test_no_folder_is_left_out_of_the_package() -> None:
    folders = {path.parent for path in (ROOT / 'mmscope').rglob('*.py')}
    assert len(folders) > 3
    # find_packages skips a folder without this file, silently
    assert all((folder / '__init__.py').exists() for folder in folders)


def test_setup_reports_the_version_of_the_package() -> None:
    version = subprocess.run(
        [sys.executable, 'setup.py', '--version'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[-1]
    text = (ROOT / 'mmscope' / 'version.py').read_text()
    assert text == f"__version__ = '{version}'\n"


def test_the_citation_names_the_version() -> None:
    citation = (ROOT / 'CITATION.cff').read_text()
    (version,) = re.findall(r'^version: (.+)$', citation, re.MULTILINE)
    assert f"'{version}'" in (ROOT / 'mmscope/version.py').read_text()

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


def read_pins(name: str) -> dict[str, Requirement]:
    return {normalise(r.name): r for r in read_requirements(name)}


PINS = read_pins('constraints.txt')
OLDEST = read_pins('minimum.txt')
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


@pytest.mark.parametrize(
    'requirement', read_requirements('classic.txt'), ids=str
)
def test_every_classic_package_is_pinned(requirement: Requirement) -> None:
    pin = OLDEST[normalise(requirement.name)]
    assert [s.operator for s in pin.specifier] == ['==']


@pytest.mark.parametrize(('name', 'version'), MINIMUM_VERSIONS.items())
def test_what_is_asked_for_is_what_is_tested(name: str, version: str) -> None:
    classic = DISTRIBUTIONS.get(name, (name,))[-1]
    (specifier,) = OLDEST[classic].specifier
    assert Version(specifier.version) == Version(version)
    short = re.sub(r'\.0$', '', version)
    assert f'{name} ≥ {short}' in (ROOT / 'docs/install.md').read_text()


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


@pytest.mark.parametrize('name', ['torch', 'numpy'])
def test_pip_asks_for_what_is_tested(name: str) -> None:
    requires = setup_arguments()['install_requires']
    (asked,) = [r for r in map(Requirement, requires) if r.name == name]
    (least,), (tested,) = asked.specifier, OLDEST[name].specifier
    assert least.operator == '>='
    assert Version(tested.version) in asked.specifier
    assert tested.version.startswith(least.version)


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


def test_workflows_and_pages_call_goals_of_the_makefile() -> None:
    makefile = (ROOT / 'Makefile').read_text()
    goals = {*re.findall(r'^([a-z][a-z-]*):(?!=)', makefile, re.MULTILINE)}
    called = {
        goal
        for pattern in ('.github/workflows/*.yml', '*.md', 'docs/*.md')
        for path in ROOT.glob(pattern)
        for goal in re.findall(
            r'(?:run: |^|`)make ([a-z-]+)', path.read_text(), re.MULTILINE
        )
    }
    assert 'test-minimum' in called
    assert called <= goals

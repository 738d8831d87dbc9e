"""The check at import: what it accepts, and what it says when it does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lines import CLASSIC

from mmscope.utils import versions
from mmscope.utils.versions import MINIMUM_VERSIONS, require

ROOT = Path(__file__).parents[1]
# in the line of packages that is there
MMCV = 'mmcv' if CLASSIC else 'onedl-mmcv'


def add_package(
    folder: Path, name: str, version: str, distribution: str | None = None
) -> None:
    """Write a package, as from a source tree or as pip would install it."""
    (folder / name).mkdir(parents=True)
    init = f'__version__ = {version!r}\n'
    if distribution:
        # pip's metadata is there, so nothing needs to import the package
        init = "raise RuntimeError('the check must not import this')\n"
        info = folder / f'{distribution.replace("-", "_")}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(
            'Metadata-Version: 2.1\n'
            f'Name: {distribution}\nVersion: {version}\n'
        )
    (folder / name / '__init__.py').write_text(init)


def run_python(code: str, *path: Path) -> subprocess.CompletedProcess:
    env = os.environ | {'PYTHONPATH': os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, '-c', code],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )


def last_line(done: subprocess.CompletedProcess) -> str:
    assert done.returncode != 0, done.stdout
    return done.stderr.strip().splitlines()[-1]


def test_import_is_light() -> None:
    done = run_python(
        'import sys, mmscope; print(sorted({"torch", "mmcv", "mmengine", '
        '"mmscope.models"} & set(sys.modules)), mmscope.__version__)'
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ['[]', _version()]


def test_the_pinned_set_satisfies_every_minimum() -> None:
    for name in ('torch', 'mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain'):
        require(name)


@pytest.mark.parametrize('name', ['torch', 'mmengine', 'mmcv'])
def test_missing_package_is_named_with_the_fix(name: str) -> None:
    module = 'mmscope' if name == 'torch' else 'mmscope.registry'
    done = run_python(
        f'import sys; sys.modules[{name!r}] = None; import {module}'
    )
    message = last_line(done)
    minimum = MINIMUM_VERSIONS[name]
    assert message.startswith(
        f'ImportError: mmscope needs {name} >= {minimum}, but {name} is not '
        'installed; to fix it run: pip install '
    )
    assert f"{name}>={minimum}'" in message


def test_operators_need_torch_alone() -> None:
    code = """
import sys
for name in ('mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'numpy'):
    sys.modules[name] = None
import torch
from mmscope.ops import bidirectional_conv, rms_norm, selective_scan
x = torch.ones(1, 4, 8)
print(selective_scan(x, x, -torch.ones(4, 2), x[:, :2], x[:, :2]).shape)
print(bidirectional_conv(x, torch.ones(2, 8, 4), torch.ones(2, 8)).shape)
print(rms_norm(x, torch.ones(8), 1e-5).shape)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('torch.Size') == 3


def test_old_package_is_named_with_both_versions(tmp_path: Path) -> None:
    add_package(tmp_path, 'mmcv', '1.7.2')
    message = last_line(run_python('import mmscope', tmp_path))
    assert message == (
        'ImportError: mmscope needs mmcv >= 2.1.0, but mmcv is at 1.7.2; to '
        'fix it run: pip install --no-build-isolation '
        f"'{MMCV}>=2.1.0'"
    )


@pytest.mark.parametrize(
    'distribution, version', [('mmcv', '2.1.0'), ('onedl-mmcv', '9.0.0')]
)
def test_both_distributions_are_accepted(
    tmp_path: Path, distribution: str, version: str
) -> None:
    add_package(tmp_path, 'mmcv', version, distribution)
    done = run_python('import mmscope', tmp_path)
    assert done.returncode == 0, done.stderr


def test_fix_stays_in_the_classic_line(tmp_path: Path) -> None:
    add_package(tmp_path, 'mmengine', '0.10.7', 'mmengine')
    add_package(tmp_path, 'mmcv', '2.0.1', 'mmcv')
    message = last_line(run_python('import mmscope', tmp_path))
    assert 'mmcv is at 2.0.1' in message
    assert message.endswith("pip install --no-build-isolation 'mmcv>=2.1.0'")


@pytest.mark.parametrize(
    'version, accepted',
    [
        ('1.2.0', True),
        ('1.2', True),
        ('1.2.2+cu121', True),
        ('1.2.0a0', True),
        ('1.1.9', False),
        ('0.30.0', False),
        ('1.10.0', True),
    ],
)
def test_versions_are_compared_as_versions(
    monkeypatch: pytest.MonkeyPatch, version: str, accepted: bool
) -> None:
    monkeypatch.setattr(versions, 'installed_version', lambda name: version)
    if accepted:
        require('mmseg', '1.2.0')
    else:
        with pytest.raises(ImportError, match=f'mmseg is at {version}'):
            require('mmseg', '1.2.0')


def test_a_bare_folder_is_not_a_package(tmp_path: Path) -> None:
    (tmp_path / 'mmpretrain_not_there').mkdir()
    code = (
        'from mmscope.utils.versions import require; '
        'require("mmpretrain_not_there", "1.0")'
    )
    assert 'is not installed' in last_line(run_python(code, tmp_path))


def _version() -> str:
    text = (ROOT / 'mmscope' / 'version.py').read_text()
    return text.split("'")[1]

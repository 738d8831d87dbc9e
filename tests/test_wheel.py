"""A wheel in an environment of its own, used from another folder."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = """
_base_ = 'mmscope::demo/mambascope_demo.py'
data_root = '{data}'
train_cfg = dict(max_iters=1, val_interval=1)
train_dataloader = dict(batch_size=2, dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root, indices=2))
test_dataloader = val_dataloader
default_hooks = dict(checkpoint=dict(interval=1))
"""


def run(*command: object, cwd: Path, **more: str) -> str:
    """Run a command, and return what it printed."""
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**os.environ, 'OMP_NUM_THREADS': '1', **more},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    """The one that MMSCOPE_WHEEL names, or one without the operator."""
    if 'MMSCOPE_WHEEL' in os.environ:
        return Path(os.environ['MMSCOPE_WHEEL']).absolute()
    # in a copy, as setuptools builds beside the sources
    copy = tmp_path_factory.mktemp('sources')
    names = run('git', 'ls-files', '-z', '--cached', cwd=ROOT)
    for name in names.strip('\0').split('\0'):
        if (ROOT / name).is_file() and not name.startswith('docs/'):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    build = '-q', 'sdist', 'bdist_wheel'
    run(sys.executable, 'setup.py', *build, cwd=copy, MMSCOPE_NO_EXT='1')
    (sources,) = (copy / 'dist').glob('*.tar.gz')
    # what is built from the archive of sources has to be the same
    again = tmp_path_factory.mktemp('again')
    run('tar', '-xzf', sources, '--strip-components=1', cwd=again)
    run(sys.executable, 'setup.py', *build[::2], cwd=again, MMSCOPE_NO_EXT='1')
    (one,), (other,) = (
        (folder / 'dist').glob('*.whl') for folder in (copy, again)
    )
    assert names_in(one) == names_in(other)
    return one


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return {*file.namelist()}


@pytest.fixture(scope='module')
def environment(wheel, tmp_path_factory) -> Path:
    """Programs of an environment with the wheel, and this one's libraries."""
    folder = tmp_path_factory.mktemp('environment')
    run(sys.executable, '-m', 'venv', '--without-pip', folder, cwd=folder)
    (site,) = folder.glob('lib/python*/site-packages')
    libraries = Path(sysconfig.get_path('purelib'))
    # setuptools, which torch needs, has the distutils that mmengine imports
    # and Python 3.12 lacks, by this file
    hook = (libraries / 'distutils-precedence.pth').read_text()
    (site / 'libraries.pth').write_text(f'{libraries}\n{hook}')
    install = '-m', 'pip', '--python', folder / 'bin/python', 'install'
    run(sys.executable, *install, '-q', '--no-deps', wheel, cwd=folder)
    where = 'import mmscope; print(mmscope.__file__)'
    found = run(folder / 'bin/python', '-c', where, cwd=folder)
    assert Path(found.strip()).is_relative_to(folder)
    return folder / 'bin'


def test_the_wheel_carries_configs_tools_and_types(wheel) -> None:
    names = names_in(wheel)
    for folder in ('configs', 'tools'):
        ours = {
            f'mmscope/.mim/{path.relative_to(ROOT).as_posix()}'
            for path in (ROOT / folder).rglob('*')
            if path.is_file() and '__pycache__' not in path.parts
        }
        assert ours and ours <= names
    assert {'mmscope/.mim/model-index.yml', 'mmscope/py.typed'} <= names
    assert not [name for name in names if name.startswith('tests/')]


def test_a_config_of_the_package_is_trained_and_tested(
    environment, tmp_path
) -> None:
    data = tmp_path / 'data'
    few = '--num-train', 4, '--num-val', 2
    program = environment / 'mmscope'
    run(program, 'sample-data', data, *few, cwd=tmp_path)
    (tmp_path / 'mine.py').write_text(CONFIG.format(data=data))
    work = '--work-dir', 'work'
    run(program, 'train', 'mine.py', *work, cwd=tmp_path)
    checkpoint = tmp_path / 'work/iter_1.pth'
    out = run(program, 'test', 'mine.py', checkpoint, *work, cwd=tmp_path)
    assert 'mIoU' in out


def test_a_command_measures_a_config_of_the_package(
    environment, tmp_path
) -> None:
    config = 'mmscope::upernet/mambascope_t_ade20k.py'
    out = run(environment / 'mmscope', 'flops', config, cwd=tmp_path)
    assert '12.' in out and 'total' in out


def test_a_checkout_has_links_to_configs_and_tools() -> None:
    """Where pip install -e has been run, as by make setup."""
    for name in ('configs', 'tools', 'model-index.yml'):
        link = ROOT / 'mmscope/.mim' / name
        assert link.resolve() == ROOT / name

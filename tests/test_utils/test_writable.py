"""What cannot be written is told before anything runs."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mmscope.utils import writable
from mmscope.utils.writable import check_file, check_folder

NOBODY = 65534


def test_what_can_be_made_passes(tmp_path: Path) -> None:
    check_folder(tmp_path, '--out-dir')
    check_folder(tmp_path / 'a' / 'b', '--out-dir')
    check_file(tmp_path / 'a' / 'b.json', '--out')
    check_file(None, '--out')
    assert list(tmp_path.iterdir()) == []


def test_relative_paths_are_below_the_current_folder(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('file').write_text('')
    check_file('b.json', '--out')
    with pytest.raises(NotADirectoryError, match='--out file/b.json: /.*file'):
        check_file('file/b.json', '--out')


@pytest.mark.parametrize('below', ['', 'a', 'a/b'])
def test_a_folder_below_a_file_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / 'file').write_text('')
    path = tmp_path / 'file' / below
    with pytest.raises(NotADirectoryError) as error:
        check_folder(path, '--out-dir')
    assert str(error.value).startswith(
        f'--out-dir {path}: {tmp_path}/file is no folder; choose another '
    )


def test_a_file_that_is_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match='is a folder; give the name'):
        check_file(tmp_path, '--out')


def test_a_link_to_nothing_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / 'link').symlink_to(tmp_path / 'gone')
    with pytest.raises(NotADirectoryError, match='link is no folder'):
        check_folder(tmp_path / 'link', '--out-dir')


AS_NOBODY = """
import os, sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location('writable', sys.argv[1])
module = module_from_spec(spec)
spec.loader.exec_module(module)
os.setegid({user}); os.seteuid({user})
for check, path in (('check_folder', 'new'), ('check_file', 'file')):
    try:
        getattr(module, check)(f'{{sys.argv[2]}}/{{path}}', '--out')
    except PermissionError as error:
        print(error)
"""


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that other users reach, as they do not reach pytest's own."""
    with TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder


def test_permissions_bind_whoever_the_process_acts_for(
    public_folder: Path,
) -> None:
    """Of root, as tests may run, they bind none."""
    (public_folder / 'file').write_text('')
    code = AS_NOBODY.format(user=NOBODY)
    done = subprocess.run(
        [sys.executable, '-c', code, writable.__file__, str(public_folder)],
        capture_output=True,
        text=True,
    )
    if 'seteuid' in done.stderr or 'setegid' in done.stderr:
        pytest.skip('only root can act for another user')
    assert done.stderr == ''
    first, second = done.stdout.splitlines()
    for line, name in ((first, 'new'), (second, 'file')):
        assert line.startswith(
            f'--out {public_folder}/{name}: {public_folder} cannot be written '
            'to by this user; choose another'
        )

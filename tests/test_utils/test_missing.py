"""What is said of files that are not there."""

from pathlib import Path

import pytest

from mmscope.utils.missing import missing


@pytest.mark.parametrize(
    ('name', 'end'),
    [
        ('mambascop_t_ade20k.py', '; is mambascope_t_ade20k.py meant?'),
        ('other.pth', '; check the path'),
        ('deeper/a.py', ', nor does its folder'),
    ],
)
def test_what_may_be_meant_is_named(
    tmp_path: Path, name: str, end: str
) -> None:
    (tmp_path / 'mambascope_t_ade20k.py').touch()
    (tmp_path / 'vim.py').touch()
    error = missing('config', tmp_path / name)
    assert isinstance(error, FileNotFoundError)
    assert str(error) == f'config {tmp_path / name} does not exist{end}'


def test_what_is_there_but_of_another_kind_is_said(tmp_path: Path) -> None:
    photo = tmp_path / 'a.jpg'
    photo.touch()
    assert str(missing('folder', photo)) == f'folder {photo} is a file'
    assert str(missing('config', tmp_path)) == f'config {tmp_path} is a folder'

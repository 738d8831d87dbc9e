"""tools/check_data.py: one table, and the exit status."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def test_complete_data_pass(
    run_tool: Callable[..., None], tiny_config: Callable[..., Path], capsys
) -> None:
    run_tool('check_data.py', tiny_config(), '--num', 2)
    out = capsys.readouterr().out
    assert 'no problem found' in out
    assert '12 masks' in out


def test_a_problem_is_a_row_and_the_status_1(
    run_tool: Callable[..., None],
    tiny_config: Callable[..., Path],
    sample_root: Path,
    tmp_path: Path,
    capsys,
    monkeypatch,
) -> None:
    monkeypatch.setenv('COLUMNS', '400')
    root = tmp_path / 'data'
    shutil.copytree(sample_root, root)
    (root / 'annotations/validation/val_000002.png').unlink()
    with pytest.raises(SystemExit) as stop:
        run_tool('check_data.py', tiny_config(data=root), '--splits', 'val')
    assert stop.value.code == 1
    rows = [
        [cell.strip() for cell in line.split('│')[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith('│ val')
    ]
    (split, _, images, *_), (_, value, rule, fix), *_ = rows
    assert (split, images) == ('val', '3')
    assert 'val_000002.png' in value
    assert rule and fix

"""The command mmscope, and configs by the package's name."""

import sys

import pytest

from mmscope import cli
from mmscope.engine.launch import load_config
from mmscope.utils.installed import shared_folder
from mmscope.version import __version__


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, 'argv', ['mmscope', *arguments])
    cli.main()


def test_every_tool_is_a_command(monkeypatch, capsys) -> None:
    found = cli.commands()
    files = {*(shared_folder() / 'tools').glob('*.py')}
    assert {*found.values()} == files
    run(monkeypatch)
    out = capsys.readouterr().out
    assert all(f'\n{name} ' in out for name in found)


def test_a_command_is_the_tool(monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, 'fps', '--help')
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith('usage: mmscope fps [-h]')


def test_the_version(monkeypatch, capsys) -> None:
    run(monkeypatch, '--version')
    assert capsys.readouterr().out == f'{__version__}\n'


def test_an_unknown_command_is_refused(monkeypatch) -> None:
    with pytest.raises(SystemExit, match='no command trin; it has train, '):
        run(monkeypatch, 'trin')


def test_a_config_of_the_package_is_that_of_the_checkout() -> None:
    name = 'upernet/mambascope_t_ade20k.py'
    ours = load_config(f'mmscope::{name}')
    path = shared_folder() / 'configs' / name
    assert ours.to_dict() == load_config(str(path)).to_dict()
    assert ours.work_dir == 'work_dirs/mambascope_t_ade20k'


def test_a_config_inherits_from_the_package(tmp_path) -> None:
    name = 'upernet/mambascope_t_ade20k.py'
    (tmp_path / 'mine.py').write_text(
        f"_base_ = 'mmscope::{name}'\nmodel = dict(backbone=dict(eta=0.9))\n"
    )
    cfg = load_config(str(tmp_path / 'mine.py'))
    assert cfg.model.backbone.pop('eta') == 0.9
    base = load_config(f'mmscope::{name}')
    base.model.backbone.pop('eta')
    assert cfg.model.to_dict() == base.model.to_dict()
    assert cfg.train_dataloader == base.train_dataloader


@pytest.mark.parametrize(
    'base',
    [
        'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py',
        'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
        'mmpretrain::resnet/resnet50_8xb32_in1k.py',
    ],
)
def test_a_config_inherits_from_the_libraries(base: str, tmp_path) -> None:
    """Whichever distribution they were installed from."""
    (tmp_path / 'mine.py').write_text(f"_base_ = '{base}'\n")
    assert load_config(str(tmp_path / 'mine.py')).model.backbone.depth == 50


def test_a_misspelt_config_is_refused_with_its_neighbours() -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r'no file mmscope::upernet/mambascope_t_ade2k.py; it has '
        r'mmscope::upernet/mambascope_t_ade20k.py, ',
    ):
        load_config('mmscope::upernet/mambascope_t_ade2k.py')

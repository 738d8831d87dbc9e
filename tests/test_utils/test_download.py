"""Weights by their address, from a real server on this machine."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from file_server import served
from vim_weights import ARCH, vim_state

from mmscope.models import VisionMambaBackbone
from mmscope.utils.checkpoint import CheckpointError, read_state_dict
from mmscope.utils.download import local_file
from mmscope.utils.installed import shared_folder

# where this process keeps downloads; an address; and what came of it
PROCESS = """
import sys

import torch

from mmscope.utils.download import local_file

rank, store, *tries = sys.argv[1:]
torch.distributed.init_process_group(
    'gloo', init_method=store, rank=int(rank), world_size=2
)
for folder, address in zip(tries[::2], tries[1::2]):
    torch.hub.set_dir(folder)
    try:
        print('told', local_file(address).is_file())
    except OSError as err:
        print('told', err)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A folder for downloads of its own."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path / 'mmengine'))
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.delenv('http_proxy', raising=False)
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    return tmp_path / 'torch/hub/checkpoints'


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / 'served'
    path.mkdir()
    return path


def test_a_file_is_itself(tmp_path) -> None:
    path = tmp_path / 'a b.pth'
    for name in (path, f'file://{path}', path.as_uri(), '~/a b.pth'):
        assert local_file(name) == path


def test_backbones_start_from_an_address(folder, cache) -> None:
    state = vim_state()
    torch.save(dict(model=state), folder / 'vim.pth')
    with served(folder) as (address, asked):
        net = VisionMambaBackbone(
            ARCH,
            img_size=64,
            out_indices=(2,),
            init_cfg=dict(type='Pretrained', checkpoint=f'{address}/vim.pth'),
        )
        net.init_weights()
        read_state_dict(f'{address}/vim.pth')
    # once, and then it is here
    assert len(asked) == 1
    assert (cache / 'vim.pth').is_file()
    assert torch.equal(net.cls_token, state['cls_token'])


def test_an_address_is_read_as_safely_as_a_file(folder) -> None:
    torch.save(dict(state_dict=print), folder / 'bomb.pth')
    with (
        served(folder) as (address, _),
        pytest.raises(CheckpointError, match='more than data'),
    ):
        read_state_dict(f'{address}/bomb.pth')


def test_a_page_in_place_of_weights_is_not_taken_again(folder, cache) -> None:
    (folder / 'vim.pth').write_text('<html>')
    with served(folder) as (address, _):
        match = f'{cache / "vim.pth"} .*; delete it, .*{address}/vim.pth is'
        with pytest.raises(CheckpointError, match=match):
            read_state_dict(f'{address}/vim.pth')


def test_names_of_models_are_mmengines(folder, tmp_path) -> None:
    """Those that it ships, and those of its file beside the downloads."""
    torch.save(dict(state_dict=vim_state()), folder / 'named.pth')
    home = tmp_path / 'mmengine'
    home.mkdir()
    torch.save(vim_state(), home / 'kept.pth')
    with served(folder) as (address, _):
        models = dict(far=f'{address}/named.pth', near='kept.pth')
        (home / 'open_mmlab.json').write_text(json.dumps(models))
        for name in models:
            assert 'cls_token' in read_state_dict(f'open-mmlab://{name}')


@pytest.mark.parametrize(
    ('name', 'known'),
    [
        ('open-mmlab://resnet50_v9', 'resnet50_'),
        ('mmcls://vgg12', 'vgg11'),
        ('torchvision://resnet102', 'resnet101'),
        ('mmcls://?', 'mobilenet_v2, .* and others'),
    ],
)
def test_unknown_names_are_told_others(name, known) -> None:
    with pytest.raises(
        ValueError, match=f'{re.escape(name)} is no model .*{known}'
    ):
        local_file(name)


def test_the_first_process_fetches_for_all_that_see_it(
    folder, tmp_path
) -> None:
    (folder / 'a.pth').write_bytes(b'a')
    with served(folder) as (address, asked):
        file, none = f'{address}/a.pth', f'{address}/none.pth'
        processes = [
            subprocess.Popen(
                [
                    *(sys.executable, '-c', PROCESS, str(rank)),
                    f'file://{tmp_path}/store',
                    *(tmp_path / 'shared', file),
                    *(tmp_path / f'machine{rank}', file),
                    *(tmp_path / 'shared', none),
                ],
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in (0, 1)
        ]
        told = [process.communicate(timeout=120)[0] for process in processes]
    for lines in told:
        *found, refused = re.findall('^told (.*)', lines, re.MULTILINE)
        assert found == ['True', 'True']
        assert f'{none} cannot be fetched' in refused
    assert sum('a.pth' in request for request in asked) == 3


@pytest.mark.parametrize(
    ('address', 'error', 'message'),
    [
        ('{}/none.pth', OSError, 'none.pth cannot be fetched .*404'),
        ('http://127.0.0.1:9/a.pth', OSError, 'a.pth cannot be fetched'),
        ('s3://bucket/a.pth', ValueError, 'of a kind that is not read'),
        ('{}/', ValueError, 'names no file'),
        ('file://far/a.pth', ValueError, "machine 'far': write file:///PATH"),
    ],
)
def test_what_cannot_be_fetched_is_named(
    folder, cache, address, error, message
) -> None:
    with (
        served(folder) as (server, _),
        pytest.raises(error, match=message),
    ):
        local_file(address.format(server))
    # nothing is left that would be taken for it
    assert not cache.exists() or not list(cache.iterdir())


def test_weights_of_the_package_go_by_its_name() -> None:
    path = local_file('mmscope::demo/mambascope_demo.pth')
    assert path == shared_folder() / 'configs/demo/mambascope_demo.pth'
    with pytest.raises(
        FileNotFoundError, match='no file mmscope::demo/mambascope_dem.pth; it'
    ) as error:
        local_file('mmscope::demo/mambascope_dem.pth')
    assert 'has mmscope::demo/mambascope_demo.pth' in str(error.value)

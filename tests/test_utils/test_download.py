"""Weights by their address, from a real server on this machine."""

from pathlib import Path

import pytest
import torch
from file_server import served
from mmengine.runner import checkpoint as mmengine_checkpoint
from vim_weights import ARCH, vim_state

from mmscope.models import VisionMambaBackbone
from mmscope.utils import download
from mmscope.utils.checkpoint import CheckpointError, read_state_dict
from mmscope.utils.download import local_file


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A folder for downloads of its own."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
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
    assert local_file(path) == local_file(f'file://{path}') == path


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


def test_names_of_models_are_looked_up(folder, monkeypatch) -> None:
    torch.save(dict(state_dict=vim_state()), folder / 'named.pth')
    with served(folder) as (address, _):
        models = {'vim_tiny': f'{address}/named.pth'}
        monkeypatch.setitem(download.CATALOGUES, 'mmcls', lambda: models)
        assert 'cls_token' in read_state_dict('mmcls://vim_tiny')
    with pytest.raises(ValueError, match='mmcls://vim_big .* knows vim_tiny'):
        local_file('mmcls://vim_big')


def test_the_catalogues_are_mmengines() -> None:
    known = mmengine_checkpoint.get_mmcls_models()
    assert download.CATALOGUES['mmcls']() == known
    with pytest.raises(ValueError, match='torchvision://resnet18 '):
        # of those that are named by their weights
        local_file('torchvision://resnet18 ')


@pytest.mark.parametrize(
    ('address', 'error', 'message'),
    [
        ('{}/none.pth', OSError, 'none.pth cannot be fetched .*404'),
        ('http://127.0.0.1:9/a.pth', OSError, 'a.pth cannot be fetched'),
        ('s3://bucket/a.pth', ValueError, 'of a kind that is not read'),
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

"""What is published has the weights, all of them, and nothing else."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mmscope.utils.checkpoint import (
    CheckpointError,
    load_weights,
    read_state_dict,
)
from mmscope.utils.publish import publish_checkpoint
from mmscope.version import __version__

META = dict(dataset_meta=dict(classes=('a', 'b')), iter=7, cfg='secret = 1')


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.fixture
def trained(tmp_path) -> Path:
    """A checkpoint as mmengine writes it, with averages."""
    model = make_model()
    raw = {f'module.{k}': v + 1 for k, v in model.state_dict().items()}
    path = tmp_path / 'iter_7.pth'
    torch.save(
        dict(
            state_dict=model.state_dict(),
            ema_state_dict=dict(raw, steps=torch.tensor(7)),
            optimizer=dict(state={0: torch.ones(1000)}),
            meta=META,
        ),
        path,
    )
    return path


def test_weights_and_classes_are_kept_and_no_more(trained, tmp_path) -> None:
    dst = tmp_path / 'new folder' / 'weights.pth'
    size = publish_checkpoint(str(trained), dst)
    assert size == dst.stat().st_size < trained.stat().st_size
    content = torch.load(dst)
    meta = dict(dataset_meta=META['dataset_meta'], iter=7)
    assert content['meta'] == dict(meta, mmscope_version=__version__)
    assert content.keys() == {'state_dict', 'meta'}
    published = read_state_dict(dst)
    expected = make_model().state_dict()
    assert published.keys() == expected.keys()
    assert all(torch.equal(published[k], expected[k]) for k in expected)


def test_raw_weights_are_those_that_were_averaged(trained, tmp_path) -> None:
    publish_checkpoint(str(trained), tmp_path / 'raw.pth', weights='raw')
    raw = read_state_dict(tmp_path / 'raw.pth')
    expected = make_model().state_dict()
    assert raw.keys() == expected.keys()
    assert all(torch.equal(raw[k], expected[k] + 1) for k in expected)


def test_half_precision_is_of_weights_alone(trained, tmp_path) -> None:
    dst = tmp_path / 'half.pth'
    publish_checkpoint(str(trained), dst, half=True)
    state = read_state_dict(dst)
    assert state['0.weight'].dtype == torch.float16
    assert state['1.num_batches_tracked'].dtype == torch.int64
    model = make_model()
    expected = model[0].weight.detach().half().float()
    load_weights(model, str(dst), 'config')
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, expected)


def test_weights_beyond_half_precision_are_refused(tmp_path) -> None:
    torch.save(dict(state_dict=dict(w=torch.tensor([7e4]))), tmp_path / 'a')
    with pytest.raises(CheckpointError, match=r'w has .*7e\+04.*65504'):
        publish_checkpoint(str(tmp_path / 'a'), tmp_path / 'b', half=True)
    assert not (tmp_path / 'b').exists()


def test_the_tool_says_what_it_wrote_or_what_is_wrong(
    trained, tmp_path, run_tool, capsys
) -> None:
    dst = tmp_path / 'out.pth'
    run_tool('publish_model.py', trained, dst)
    assert f'written to {dst}: 0.00 MB, sha256 ' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='publish_model: .*does not exist'):
        run_tool('publish_model.py', tmp_path / 'absent.pth', dst)

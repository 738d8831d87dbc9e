"""Reading weights runs no code, and loading them leaves nothing out."""

import argparse
import contextlib
import io
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from mmscope.utils.checkpoint import (
    MMENGINE_WRAPPERS,
    CheckpointError,
    load_weights,
    read_state_dict,
)

STATE = dict(a=torch.ones(2))


class Bomb:
    """Unpickling it in full makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (eval, (f'open({str(self.marker)!r}, "w")',))


def dotted_name(marker: Path) -> bytes:
    """Protocol 4 reaches ``eval`` from a function that rebuilds tensors."""

    def text(value: str) -> bytes:
        data = value.encode()
        return b'X' + len(data).to_bytes(4, 'little') + data

    name = '_rebuild_tensor_v2.__builtins__.get'
    return b''.join(
        (
            pickle.PROTO + b'\x04' + text('torch._utils') + text(name),
            pickle.STACK_GLOBAL + text('eval') + pickle.TUPLE1,
            pickle.REDUCE + text(f'open({str(marker)!r}, "w")'),
            pickle.TUPLE1 + pickle.REDUCE + pickle.STOP,
        )
    )


def in_a_zip(data: bytes) -> bytes:
    """A file as torch.save writes it, with another pickle."""
    file = io.BytesIO()
    torch.save(STATE, file)
    changed = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(changed, 'w') as new:
        for name in old.namelist():
            is_pickle = name.endswith('data.pkl')
            new.writestr(name, data if is_pickle else old.read(name))
    return changed.getvalue()


def saved(content: object, **options: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def in_a_tar(data: bytes) -> bytes:
    """The format of before 2016, whose parts are pickles."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as tar:
        for name in ('storages', 'tensors', 'pickle'):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def persistent(marker: Path) -> bytes:
    """What a storage's place is computed from."""
    inner = pickle.dumps(Bomb(marker), protocol=2)[2:-1]
    return pickle.PROTO + b'\x02' + inner + pickle.BINPERSID + pickle.STOP


BOMBS: dict[str, Callable[[Path], bytes]] = {
    'global': lambda m: saved(dict(state_dict=STATE, extra=Bomb(m))),
    'among the weights': lambda m: saved(dict(STATE, b=Bomb(m))),
    'legacy': lambda m: saved(
        dict(STATE, b=Bomb(m)), _use_new_zipfile_serialization=False
    ),
    'dotted name': lambda m: in_a_zip(dotted_name(m)),
    'bare dotted name': dotted_name,
    'in a zip in a zip': lambda m: in_a_zip(saved(Bomb(m))),
    'in a tar': lambda m: in_a_tar(pickle.dumps(Bomb(m), protocol=2)),
    'persistent id': lambda m: in_a_zip(persistent(m)),
}


@pytest.mark.parametrize('kind', BOMBS)
@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_reading_runs_no_code(kind: str, tmp_path: Path) -> None:
    marker, path = tmp_path / 'marker', tmp_path / 'bomb.pth'
    path.write_bytes(BOMBS[kind](marker))
    with pytest.raises(CheckpointError, match='more than data|not a PyTorch'):
        read_state_dict(path)
    assert not marker.exists()


def test_bombs_are_live(tmp_path: Path) -> None:
    """Unpickled in full, they do what the test above looks for."""
    marker, path = tmp_path / 'marker', tmp_path / 'bomb.pth'
    for kind in ('global', 'dotted name', 'persistent id'):
        path.write_bytes(BOMBS[kind](marker))
        with contextlib.suppress(Exception):  # after the damage is done
            torch.load(path, weights_only=False)
        assert marker.exists(), kind
        marker.unlink()


def test_what_mmengine_and_vim_save_is_read(tmp_path: Path) -> None:
    path = tmp_path / 'checkpoint.pth'
    logs = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save(
        dict(
            state_dict=STATE,
            message_hub=dict(log_scalars=dict(loss=logs), best=np.float64(1)),
            random=dict(numpy=np.random.get_state(), python=random.getstate()),
            args=argparse.Namespace(lr=1.0),
        ),
        path,
    )
    assert read_state_dict(path)['a'].tolist() == [1, 1]


def test_only_the_statistics_of_logs_are_looked_up(tmp_path: Path) -> None:
    """HistoryBuffer's pickle needs getattr, and nothing else may have it."""

    class Attribute:
        def __init__(self, *where: object) -> None:
            self.where = where

        def __reduce__(self) -> tuple:
            return (getattr, self.where)

    path = tmp_path / 'bad.pth'
    for where in ((HistoryBuffer, '__init__'), (torch.Tensor, 'min')):
        torch.save(dict(state_dict=STATE, extra=Attribute(*where)), path)
        with pytest.raises(CheckpointError):
            read_state_dict(path)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    whole = saved(dict(model=dict(a=torch.rand(99, 99))))
    bad = tmp_path / 'bad.pth'
    for content in (whole[:4000], whole[: len(whole) // 2], b'', b'hello'):
        bad.write_bytes(content)
        with pytest.raises(CheckpointError, match=r'bad.pth \(\d+ bytes\) is'):
            read_state_dict(bad)
    torch.save([1, 2], bad)
    with pytest.raises(CheckpointError, match='expected a state dict.*list'):
        read_state_dict(bad)
    with pytest.raises(FileNotFoundError, match=r'none.pth does not exist'):
        read_state_dict(tmp_path / 'none.pth')


def test_weights_that_the_runner_would_not_find_are_refused(
    tmp_path: Path,
) -> None:
    """mmengine looks under 'state_dict' alone, and warns where none is."""
    path = tmp_path / 'vim.pth'
    torch.save(dict(model=STATE), path)
    assert read_state_dict(path).keys() == {'a'}
    with pytest.raises(CheckpointError, match="under 'state_dict', got dict"):
        read_state_dict(path, MMENGINE_WRAPPERS)


def test_all_weights_are_loaded_or_none(tmp_path: Path) -> None:
    model, path = nn.Linear(2, 3), tmp_path / 'linear.pth'
    torch.save(nn.Linear(2, 3).state_dict(), path)
    load_weights(model, str(path), 'linear.py')
    assert torch.equal(model.weight, torch.load(path)['weight'])
    torch.save(nn.Linear(2, 4).state_dict(), path)
    with pytest.raises(CheckpointError, match=r'\(4,\), not \(3,\)'):
        load_weights(model, str(path), 'linear.py')

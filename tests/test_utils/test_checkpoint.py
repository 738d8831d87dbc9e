import pytest
import torch

from mmscope.utils.checkpoint import CheckpointError, read_state_dict


def test_files_that_are_no_checkpoints(vim_file, tmp_path) -> None:
    whole = vim_file[0].read_bytes()
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


class Bomb:
    """Unpickling it in full would raise."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ('code of the checkpoint was run',))


def test_reading_runs_no_code(tmp_path) -> None:
    path = tmp_path / 'bomb.pth'
    torch.save(dict(state_dict=dict(a=torch.ones(2)), extra=Bomb()), path)
    assert read_state_dict(path)['a'].tolist() == [1, 1]

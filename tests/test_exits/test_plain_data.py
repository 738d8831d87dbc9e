"""Values on disk that are read as data alone."""

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from mmscope.exits.plain_data import load_plain, save_plain

RAN: list[str] = []


def ran(text: str) -> str:
    """What must not be called by reading a file."""
    RAN.append(text)
    return text


class Bomb:
    """Calls a function where it is unpickled."""

    def __reduce__(self) -> tuple:
        return ran, ('boom',)


class Pair(NamedTuple):
    first: int
    second: torch.Tensor


def test_values_keep_their_types(tmp_path: Path) -> None:
    path = tmp_path / 'value.pth'
    value = dict(
        text='ä',
        nothing=None,
        number=0.1 + 0.2,
        whole=2**70,
        strange=[float('nan'), float('inf'), True],
        pair=Pair(1, torch.arange(6).reshape(2, 3)),
        by_class={3: np.arange(4.0), 5: np.float32(0.1)},
        code=b'\x00mask\xff',
        half=torch.tensor(1.5, dtype=torch.float16),
        empty=[np.zeros((0, 5), np.float32), (), {}],
    )
    save_plain(OrderedDict(value), path)
    back = load_plain(path)
    assert list(back) == list(value)
    for key in ('text', 'nothing', 'number', 'whole', 'code'):
        assert back[key] == value[key]
        assert type(back[key]) is type(value[key])
    assert np.isnan(back['strange'][0])
    assert back['strange'][1:] == [float('inf'), True]
    assert isinstance(back['pair'], tuple)
    torch.testing.assert_close(back['pair'][1], value['pair'].second)
    np.testing.assert_array_equal(back['by_class'][3], np.arange(4.0))
    assert back['by_class'][5] == np.float32(0.1)
    assert back['half'].dtype == torch.float16
    assert back['empty'][0].shape == (0, 5)
    assert back['empty'][1:] == [(), {}]


@pytest.mark.parametrize(
    'value', [Bomb(), {'a': [Bomb()]}, np.array([Bomb()]), ran]
)
def test_nothing_but_data_is_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match='no plain data'):
        save_plain(value, tmp_path / 'value.pth')


def saved(value: object) -> bytes:
    with io.BytesIO() as file:
        torch.save(value, file)
        return file.getvalue()


@pytest.mark.parametrize(
    'content',
    [
        pickle.dumps(Bomb(), protocol=2),
        saved(Bomb()),
        saved({'a': [Bomb()]}),
        saved(np.array([Bomb()])),
        saved(dict(number=1))[:-40],
        b'',
        b'PK',
    ],
)
def test_what_is_no_data_is_refused_and_does_not_run(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / 'value.pth'
    path.write_bytes(content)
    RAN.clear()
    with pytest.raises(ValueError, match='value.pth'):
        load_plain(path)
    assert not RAN


def test_a_row_of_a_batch_is_kept_without_the_others(tmp_path: Path) -> None:
    row = torch.zeros(10_000, 4)[0]
    save_plain(row, tmp_path / 'value.pth')
    assert (tmp_path / 'value.pth').stat().st_size < 10_000

"""Options of the command line with a letter too many or too few."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import OUTCOMES, tried
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config

from mmscope.engine.config_keys import FREE, check_options

ROOT = Path(__file__).parents[2]
NAMES = (
    'upernet/mambascope_t_ade20k',
    'cascade_mask_rcnn/mambascope_t_coco',
    'imagenet/vim_t_in1k',
)
AREA = 'misspelt --cfg-options'


def places(node: object, path: tuple[str, ...] = ()) -> Iterator[tuple]:
    """Keys that lead to every value, where mmengine chooses the names."""
    if isinstance(node, dict | Config) and not FREE.intersection(path[-1:]):
        items = list(node.items())
    elif isinstance(node, list | tuple):
        items = [(str(i), value) for i, value in enumerate(node)]
    else:
        return
    for key, value in items:
        if not key.isdigit() and len(key) > 1:
            yield (*path, key)
        yield from places(value, (*path, key))


CONFIGS = {n: Config.fromfile(ROOT / 'configs' / f'{n}.py') for n in NAMES}
PLACES = {name: list(places(cfg)) for name, cfg in CONFIGS.items()}


@st.composite
def misspelt(draw: st.DrawFn) -> tuple[str, tuple[str, ...], str]:
    """Config, keys that lead to a place, and how its last is misspelt."""
    name = draw(st.sampled_from(NAMES))
    path = draw(st.sampled_from(PLACES[name]))
    key, at = path[-1], draw(st.integers(0, len(path[-1]) - 1))
    way = draw(st.sampled_from(['delete', 'swap', 'insert']))
    if way == 'delete':
        wrong = key[:at] + key[at + 1 :]
    elif way == 'insert':
        letter = draw(st.sampled_from('abcdefghijklmnopqrstuvwxyz_'))
        wrong = key[:at] + letter + key[at:]
    else:
        at = min(at, len(key) - 2)
        wrong = key[:at] + key[at + 1] + key[at] + key[at + 2 :]
    return name, path, wrong


@given(misspelt(), st.sampled_from(['', '.more']))
def test_misspelt_options_are_named(
    case: tuple[str, tuple[str, ...], str], more: str
) -> None:
    name, path, wrong = case
    parent = CONFIGS[name]
    for key in path[:-1]:
        parent = parent[int(key) if isinstance(parent, list) else key]
    if wrong in parent:  # it is another key, or the same
        return
    option = '.'.join((*path[:-1], wrong)) + more
    before = OUTCOMES[AREA, 'ValueError']
    with tried(AREA):
        try:
            check_options(CONFIGS[name], {option: 1})
        except ValueError as err:
            place = '.'.join((*path[:-1], wrong))
            assert str(err).startswith(f'{place}: ')
            assert f"has no '{wrong}'; did you mean '" in str(err)
            raise
    assert OUTCOMES[AREA, 'ValueError'] == before + 1, option


@pytest.mark.parametrize('name', NAMES)
def test_keys_that_are_there_pass(name: str) -> None:
    cfg = CONFIGS[name]
    for path in PLACES[name]:
        check_options(cfg, {'.'.join(path): 1})

"""An interrupted run goes on as if nothing had happened."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from run_hooks import Before, Recorder, interrupt

Run = tuple[Path, Recorder]


@pytest.fixture(scope='module')
def whole_run(train, tiny_config, tmp_path_factory) -> Run:
    """Nine iterations; validation and a checkpoint every four."""
    work_dir, recorder = tmp_path_factory.mktemp('whole'), Recorder()
    train(tiny_config(), work_dir, recorder)
    return work_dir, recorder


def leaves(node: object, path: str = '') -> Iterator[tuple[str, object]]:
    """Every value in a checkpoint and where it is."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f'{path}/{key}')
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from leaves(value, f'{path}/{index}')
    else:
        yield path, node


def assert_same_state(one: Path, other: Path) -> None:
    """Weights, optimizer, schedules and random states, to the last bit."""
    parts = ('state_dict', 'optimizer', 'param_schedulers', 'random_state')
    first, second = (
        dict(leaves({part: state[part] for part in parts}))
        for state in (
            torch.load(path, weights_only=False) for path in (one, other)
        )
    )
    assert first.keys() == second.keys()
    assert any(path.endswith('exp_avg_sq') for path in first)
    assert [k for k in first if not np.array_equal(first[k], second[k])] == []


def test_interrupted_run_goes_on_exactly(
    train, tiny_config, tmp_path, whole_run
) -> None:
    whole_dir, whole = whole_run
    before, after = Recorder(), Recorder()
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(), tmp_path, before, Before(7, interrupt))
    train(tiny_config(), tmp_path, after, resume='auto')
    assert list(after.losses) == [5, 6, 7, 8, 9]
    for part in (before, after):
        assert part.losses == {i: whole.losses[i] for i in part.losses}
        assert part.alphas == {i: whole.alphas[i] for i in part.alphas}
    assert_same_state(whole_dir / 'iter_9.pth', tmp_path / 'iter_9.pth')


def test_resumption_after_the_change_of_alpha(
    train, tiny_config, tmp_path, whole_run
) -> None:
    whole_dir, whole = whole_run
    after = Recorder()
    source = whole_dir / 'iter_8.pth'
    train(tiny_config(), tmp_path, after, resume=str(source))
    assert after.alphas == {9: 0.8}
    assert after.losses == {9: whole.losses[9]}
    assert_same_state(whole_dir / 'iter_9.pth', tmp_path / 'iter_9.pth')

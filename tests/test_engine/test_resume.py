"""An interrupted run goes on as if nothing had happened."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from lines import resumes_exactly
from run_hooks import Before, Recorder, interrupt

from mmscope.utils.checkpoint import CheckpointError

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
            torch.load(path, weights_only=True) for path in (one, other)
        )
    )
    assert first.keys() == second.keys()
    assert any(path.endswith('exp_avg_sq') for path in first)
    assert [k for k in first if not np.array_equal(first[k], second[k])] == []


@resumes_exactly
def test_interrupted_run_goes_on_exactly(
    train, tiny_config, tmp_path, whole_run
) -> None:
    whole_dir, whole = whole_run
    before, after = Recorder(), Recorder()
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(), tmp_path, before, Before(7, interrupt))
    resumed = train(tiny_config(), tmp_path, after, resume='auto')
    assert list(after.losses) == [5, 6, 7, 8, 9]
    # mmengine's logs go on, too, though they are saved as plain data
    log = resumed.message_hub.log_scalars['train/loss']
    assert len(log.data[0]) == 9
    for part in (before, after):
        assert part.losses == {i: whole.losses[i] for i in part.losses}
        assert part.alphas == {i: whole.alphas[i] for i in part.alphas}
    assert_same_state(whole_dir / 'iter_9.pth', tmp_path / 'iter_9.pth')


@resumes_exactly
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


EPOCHS = """
train_cfg = dict(
    _delete_=True,
    type='EpochBasedTrainLoop',
    max_epochs=3,
    val_interval=1,
)
train_dataloader.update(
    batch_size=6, sampler=dict(type='DefaultSampler', shuffle=True)
)
default_hooks['checkpoint'] = dict(by_epoch=True, interval=1, save_best=None)
"""


def test_loop_over_epochs_goes_on_exactly(
    train, tiny_config, tmp_path
) -> None:
    """With dropout and drop path, which draw from torch's generator."""
    whole, before, after = Recorder(), Recorder(), Recorder()
    config = tiny_config(EPOCHS)
    train(config, tmp_path / 'whole', whole)
    work_dir = tmp_path / 'cut'
    with pytest.raises(KeyboardInterrupt):
        train(config, work_dir, before, Before(4, interrupt))
    train(config, work_dir, after, resume='auto')
    assert list(whole.losses) == [1, 2, 3, 4, 5, 6]
    assert list(after.losses) == [3, 4, 5, 6]
    for part in (before, after):
        assert part.losses == {i: whole.losses[i] for i in part.losses}
    last = [f / 'epoch_3.pth' for f in (tmp_path / 'whole', work_dir)]
    assert_same_state(*last)


def test_a_moved_work_dir_is_resumed(
    train, tiny_config, tmp_path, whole_run
) -> None:
    """last_checkpoint names the place that the checkpoint had before."""
    work_dir, after = tmp_path / 'moved', Recorder()
    shutil.copytree(whole_run[0], work_dir)
    (work_dir / 'last_checkpoint').write_text('/gone/iter_8.pth')
    train(tiny_config(), work_dir, after, resume='auto')
    assert list(after.losses) == [9]
    (work_dir / 'last_checkpoint').write_text('/gone/iter_7.pth')
    with pytest.raises(FileNotFoundError, match='names /gone/iter_7.pth, and'):
        train(tiny_config(), work_dir, resume='auto')


def test_checkpoints_hold_plain_data_alone(whole_run) -> None:
    """torch reads them by its own list of what is safe."""
    state = torch.load(whole_run[0] / 'iter_8.pth', weights_only=True)
    assert state['meta']['iter'] == 8
    kinds = {type(value) for _, value in leaves(state)}
    assert kinds <= {torch.Tensor, int, float, bool, str, type(None)}


OTHER_CLASSES = """
for part in ('decode_head', 'auxiliary_head'):
    model[part]['num_classes'] = 151
model['backbone']['exit_head'] = dict(num_classes=151)
"""


def test_a_run_of_another_model_is_not_resumed(
    train, tiny_config, tmp_path, whole_run
) -> None:
    source = str(whole_run[0] / 'iter_8.pth')
    message = r'iter_8.pth is not of the model of .*is \(150,'
    with pytest.raises(CheckpointError, match=message):
        train(tiny_config(OTHER_CLASSES), tmp_path, resume=source)

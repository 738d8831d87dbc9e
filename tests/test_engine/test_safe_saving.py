"""Full disks and signals cost no checkpoint."""

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from lines import resumes_exactly
from mmengine.hooks import Hook
from mmengine.runner import Runner
from run_hooks import Before, Recorder

from mmscope.engine.safe_saving import StopHook, WholeFileBackend

ONE_KEPT = """
default_hooks['checkpoint'] = dict(
    interval=2, max_keep_ckpts=1, save_best=None
)
"""


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let longer files fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_file_that_fails_leaves_the_one_before(tmp_path) -> None:
    path, backend = tmp_path / 'ä b.pth', WholeFileBackend()
    backend.put(b'old', path)
    with (
        files_of_at_most(1000),
        pytest.raises(OSError, match=r'ä b.pth was not written, 2000 bytes'),
    ):
        backend.put(b'n' * 2000, path)
    assert path.read_bytes() == b'old'
    backend.put(b'new', path)
    assert path.read_bytes() == b'new'
    assert os.listdir(tmp_path) == ['ä b.pth']


def test_a_folder_that_is_a_file_is_named(tmp_path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match=r'x.pth was not written.*--work-dir'):
        WholeFileBackend().put(b'new', tmp_path / 'file' / 'x.pth')


def test_a_full_disk_leaves_the_only_checkpoint_whole(
    train, tiny_config, tmp_path
) -> None:
    """mmengine removes the old one first, and keeps one here."""
    config, after = tiny_config(ONE_KEPT), Recorder()
    limit = []

    def fill(runner: Runner) -> None:
        limit.append(files_of_at_most(100_000))
        limit[0].__enter__()

    try:
        with pytest.raises(OSError, match=r'iter_4.pth was not written'):
            train(config, tmp_path, Before(4, fill))
    finally:
        limit[0].__exit__(None, None, None)
    names = {path.name for path in tmp_path.iterdir()}
    assert 'iter_2.pth' in names
    assert not any('iter_4' in name for name in names)
    train(config, tmp_path, after, resume='auto')
    assert list(after.losses) == [3, 4, 5, 6, 7, 8, 9]
    kept = [path.name for path in tmp_path.glob('*.pth')]
    assert kept == ['iter_9.pth']


class Within(Hook):
    """Send a signal to this process at one point of a training."""

    def __init__(self, point: str, number: int) -> None:
        setattr(self, point, self.send)
        self.number, self.sent = number, False

    def send(self, runner: Runner, *_: object, **__: object) -> None:
        if not self.sent and runner.iter in (3, 4):
            self.sent = True
            os.kill(os.getpid(), self.number)


@resumes_exactly
@pytest.mark.parametrize(
    ('point', 'number', 'done'),
    [
        ('before_train_iter', signal.SIGTERM, 4),
        ('after_train_iter', signal.SIGINT, 4),
        ('before_val_epoch', signal.SIGTERM, 4),
        ('after_val_epoch', signal.SIGINT, 5),
    ],
)
def test_signals_end_a_training_that_goes_on_exactly(
    train, tiny_config, tmp_path, point, number, done
) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    whole, before, after = Recorder(), Recorder(), Recorder()
    train(tiny_config(), tmp_path / 'whole', whole)
    cut = tmp_path / 'cut'
    with pytest.raises(SystemExit) as stop:
        train(tiny_config(), cut, before, Within(point, number))
    assert stop.value.code == 128 + number
    saved = torch.load(cut / f'iter_{done}.pth', weights_only=True)
    assert saved['meta']['iter'] == done
    now = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    assert now == handlers
    train(tiny_config(), cut, after, resume='auto')
    assert list(after.losses) == list(range(done + 1, 10))
    for part in (before, after):
        assert part.losses == {i: whole.losses[i] for i in part.losses}


EPOCHS = """
train_cfg = dict(
    _delete_=True, type='EpochBasedTrainLoop', max_epochs=3, val_interval=9
)
train_dataloader.update(
    batch_size=6, sampler=dict(type='DefaultSampler', shuffle=True)
)
default_hooks['checkpoint'] = dict(by_epoch=True, interval=1, save_best=None)
"""


def test_a_loop_over_epochs_goes_on_from_the_last_one(
    train, tiny_config, tmp_path
) -> None:
    config, after = tiny_config(EPOCHS), Recorder()
    with pytest.raises(SystemExit):
        train(config, tmp_path, Within('before_train_iter', signal.SIGTERM))
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_1.pth']
    train(config, tmp_path, after, resume='auto')
    assert list(after.losses) == [3, 4, 5, 6]


def test_an_empty_last_checkpoint_is_named(
    train, tiny_config, tmp_path: Path
) -> None:
    (tmp_path / 'last_checkpoint').write_text('')
    with pytest.raises(FileNotFoundError, match='names nothing, and there is'):
        train(tiny_config(), tmp_path, resume='auto')


@pytest.fixture
def listening() -> Iterator[StopHook]:
    hook = StopHook()
    hook.before_train(None)
    yield hook
    hook.after_run(None)


def test_processes_that_a_training_forks_can_be_ended(listening) -> None:
    """As VOCMetric's pool: what outlives SIGTERM is waited for forever."""
    fork = multiprocessing.get_context('fork')
    worker = fork.Process(target=time.sleep, args=(60,), daemon=True)
    worker.start()
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == -signal.SIGTERM


def test_ctrl_c_is_left_to_the_training(listening) -> None:
    with multiprocessing.get_context('fork').Pool(1) as pool:
        (worker,) = pool._pool
        os.kill(worker.pid, signal.SIGINT)
        assert pool.apply(os.getpid) == worker.pid

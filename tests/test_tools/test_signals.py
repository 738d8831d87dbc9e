"""Signals to trainings with data workers, and in several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import ROOT, environment

CONFIG = """
train_cfg = dict(max_iters={iters}, val_interval=1000)
train_dataloader.update(num_workers=2, persistent_workers=True)
default_hooks['checkpoint'] = dict(interval=1000, save_best=None)
"""
TORCHRUN = '-m', 'torch.distributed.run', '--standalone'


def start(
    config: Path, work_dir: Path, several: bool, *more: object
) -> subprocess.Popen:
    """Start a training as a shell does, in a process group of its own."""
    launcher = (*TORCHRUN, '--nproc-per-node', 2) if several else ()
    command = 'tools/train.py', config, '--work-dir', work_dir, *more
    words = *launcher, *command, *(('--launcher', 'pytorch') * several)
    with (work_dir.parent / 'log').open('a') as log:
        return subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            env=environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def iterations(work_dir: Path) -> list[int]:
    """Iterations whose losses have been logged."""
    lines = [
        json.loads(line)
        for path in sorted(work_dir.glob('*/vis_data/scalars.json'))
        for line in path.read_text().splitlines()
    ]
    return [line['iter'] for line in lines if 'loss' in line]


def children(pid: int) -> list[int]:
    text = Path(f'/proc/{pid}/task/{pid}/children').read_text()
    return list(map(int, text.split()))


def to_group(process: subprocess.Popen, number: int) -> None:
    """As a terminal's Ctrl-C, and batch systems that end a job."""
    os.killpg(process.pid, number)


def to_launcher(process: subprocess.Popen, number: int) -> None:
    """torchrun passes it on to the group of each process."""
    process.send_signal(number)


def to_rank(rank: int) -> Callable[[subprocess.Popen, int], None]:
    def send(process: subprocess.Popen, number: int) -> None:
        os.kill(children(process.pid)[rank], number)

    return send


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / 'log'


@pytest.mark.slow
@pytest.mark.parametrize(
    ('several', 'send', 'number'),
    [
        (False, to_group, signal.SIGTERM),
        (False, to_group, signal.SIGINT),
        (True, to_launcher, signal.SIGTERM),
        (True, to_launcher, signal.SIGINT),
        (True, to_rank(0), signal.SIGTERM),
        (True, to_rank(1), signal.SIGTERM),
    ],
    ids=['group', 'ctrl-c', 'launcher', 'launcher-int', 'rank0', 'rank1'],
)
def test_a_signal_leaves_a_checkpoint_to_go_on_from(
    tiny_config, tmp_path, log, several, send, number
) -> None:
    work_dir = tmp_path / 'work'
    config = tiny_config(CONFIG.format(iters=10_000))
    process = start(config, work_dir, several)
    try:
        while len(iterations(work_dir)) < 3 and process.poll() is None:
            time.sleep(0.1)
        send(process, number)
        code = process.wait(300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    text = log.read_text()
    # torchrun tells the processes' exit by its own
    assert code == (1 if several else 128 + number), text[-3000:]
    done = iterations(work_dir)
    (saved,) = work_dir.glob('*.pth')
    assert saved.name == f'iter_{done[-1]}.pth', text[-3000:]
    assert torch.load(saved, weights_only=True)['meta']['iter'] == done[-1]
    name = signal.Signals(number).name
    assert f'{name}: stopped after iteration {done[-1]}; go on' in text
    assert 'DataLoader worker' not in text

    more = '--resume', '--cfg-options', f'train_cfg.max_iters={done[-1] + 2}'
    assert start(config, work_dir, several, *more).wait(300) == 0
    assert iterations(work_dir) == list(range(1, done[-1] + 3))


KILLED = """
import os, runpy, signal, sys
whole = os.fsync
def fsync(file):
    if 'iter_4' in os.readlink(f'/proc/self/fd/{file}'):
        os.kill(os.getpid(), signal.SIGKILL)
    whole(file)
os.fsync = fsync
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""
ONE_KEPT = """
train_cfg = dict(max_iters=5, val_interval=1000)
default_hooks['checkpoint'] = dict(
    interval=2, max_keep_ckpts=1, save_best=None
)
"""


@pytest.mark.slow
def test_sigkill_while_a_checkpoint_is_written(tiny_config, tmp_path) -> None:
    """The file is there under another name, and the one before is whole."""
    config, work_dir = tiny_config(ONE_KEPT), tmp_path / 'work'
    command = 'tools/train.py', config, '--work-dir', work_dir
    run = dict(cwd=ROOT, capture_output=True, text=True)
    killed = subprocess.run(
        [sys.executable, '-c', KILLED, *map(str, command)], **run
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    names = {path.name for path in work_dir.glob('*.pth*')}
    assert names == {'iter_2.pth', 'iter_4.pth.part'}
    again = subprocess.run(
        [sys.executable, *map(str, command), '--resume'], **run
    )
    assert again.returncode == 0, again.stderr[-3000:]
    assert iterations(work_dir) == [1, 2, 3, 4, 3, 4, 5]
    names = {path.name for path in work_dir.glob('*.pth*')}
    assert names == {'iter_5.pth'}

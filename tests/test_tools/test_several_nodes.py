"""Training over several nodes, which are groups of processes here."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SHORT = """
randomness = dict(seed=0)
train_cfg = dict(max_iters=4, val_interval=4)
default_hooks['checkpoint'] = dict(interval=2)
"""
# a worker that dies as one does that the kernel kills for its memory
DEADLY = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module(name='Death')
class Death(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == 1 and runner.iter == 3:
            os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED = """
custom_imports = dict(imports=['deadly'])
custom_hooks = [dict(type='Death')]
"""


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return str(sock.getsockname()[1])


def train(
    config: Path, work_dir: Path, nodes: int, *options: str
) -> list[tuple[int, str]]:
    """Train in two processes on one or two nodes of this machine.

    Returns:
        Exit status and output of each node's launcher.
    """
    port = free_port()
    launchers = [
        subprocess.Popen(
            [
                *('bash', 'tools/dist_train.sh', config, str(2 // nodes)),
                *('--work-dir', work_dir, *options),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                'PYTHON': sys.executable,
                'PYTHONPATH': f'{ROOT}{os.pathsep}{config.parent}',
                'OMP_NUM_THREADS': '1',
                'NNODES': str(nodes),
                'NODE_RANK': str(node),
                'PORT': port,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(nodes)
    ]
    outputs = [launcher.communicate()[0] for launcher in launchers]
    return [
        (launcher.returncode, output)
        for launcher, output in zip(launchers, outputs, strict=True)
    ]


@pytest.mark.slow
def test_a_killed_worker_ends_the_job_which_resumes(
    tiny_config, tmp_path
) -> None:
    config, work_dir = tiny_config(SHORT + KILLED), tmp_path / 'killed'
    (config.parent / 'deadly.py').write_text(DEADLY)
    first, second = train(config, work_dir, 2)
    # both nodes end, and the worker's names it
    assert first[0] != 0
    assert second[0] != 0
    assert f'Signal {signal.SIGKILL.value} (SIGKILL)' in second[1]
    assert 'rank      : 1' in second[1]
    assert not (work_dir / 'iter_4.pth').exists()
    resumed = train(tiny_config(SHORT), work_dir, 2, '--resume')
    assert [status for status, _ in resumed] == [0, 0], resumed
    assert 'resumed epoch: 0, iter: 2' in resumed[0][1]
    assert (work_dir / 'iter_4.pth').is_file()


@pytest.mark.slow
def test_two_nodes_learn_what_one_does(tiny_config, tmp_path) -> None:
    """Two processes, wherever they run."""
    weights = []
    for nodes in (1, 2):
        done = train(tiny_config(SHORT), tmp_path / str(nodes), nodes)
        assert [status for status, _ in done] == [0] * nodes, done
        state = torch.load(
            tmp_path / str(nodes) / 'iter_4.pth', weights_only=False
        )
        weights.append(state['state_dict'])
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name

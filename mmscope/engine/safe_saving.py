"""Checkpoints that outlive full disks and signals."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import torch
from mmengine.dist import (
    all_reduce,
    barrier,
    get_world_size,
    is_main_process,
)
from mmengine.fileio import LocalBackend, get_file_backend, register_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from mmscope.registry import HOOKS

BACKEND = 'mmscope_whole'
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# iterations from one question of several processes to the next
ASK_EVERY = 10


@register_backend(BACKEND)
class WholeFileBackend(LocalBackend):
    """Files on this machine that are there as a whole, or not at all."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write beside a file, and rename when all of it is on the disk.

        Args:
            obj: Content.
            filepath: File to write or to replace.

        Raises:
            OSError: it cannot be written; what was there before still is.
        """
        path = Path(filepath)
        part = path.with_name(f'{path.name}.part')
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open('wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as err:
            with suppress(OSError):
                part.unlink()
            raise OSError(
                err.errno,
                f'{path} was not written, {len(obj)} bytes: {err.strerror}; '
                'files written before are whole. Its folder must be writable '
                'and have that much space: free some or choose another '
                '--work-dir, then go on with --resume',
            ) from err


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, and no failure costs a checkpoint.

    mmengine writes over files in place, and removes old checkpoints before
    the new one is written: a full disk leaves a run with neither. Here files
    are written beside and renamed, and old ones are removed last. The same
    holds for the best checkpoint.

    Takes the arguments of CheckpointHook.
    """

    def before_train(self, runner: Runner) -> None:
        """Choose where and how to write."""
        super().before_train(runner)
        local = isinstance(self.file_backend, LocalBackend)
        if local and self.backend_args is None:
            self.backend_args = dict(backend=BACKEND)
            self.file_backend = get_file_backend(
                backend_args=self.backend_args
            )

    def after_train_epoch(self, runner: Runner) -> None:
        """Save after an epoch, where it is time to."""
        with self._removing_last():
            super().after_train_epoch(runner)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Save after an iteration, where it is time to."""
        with self._removing_last():
            super().after_train_iter(runner, batch_idx, data_batch, outputs)

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float]
    ) -> None:
        """Save the best model."""
        with self._removing_last():
            super().after_val_epoch(runner, metrics)

    def save(self, runner: Runner, iterations: int) -> None:
        """Save now, whatever the interval.

        Args:
            runner: The runner.
            iterations: Number of iterations that are done.
        """
        with self._removing_last():
            self._save_checkpoint_with_step(
                runner,
                iterations,
                meta=dict(epoch=runner.epoch, iter=iterations),
            )

    @contextmanager
    def _removing_last(self) -> Iterator[None]:
        """Let files be removed when the new ones are there, not before."""
        backend, removed = self.file_backend, []
        # the backend is this hook's own, and nobody else removes by it
        self.file_backend = _Keeping(backend, removed)
        try:
            yield
        finally:
            self.file_backend = backend
        # a file that was written once more is no old one
        best = getattr(self, 'best_ckpt_path_dict', {}).values()
        kept = (self.last_ckpt, getattr(self, 'best_ckpt_path', None), *best)
        for path in removed:
            if path not in kept:
                backend.remove(path)


class _Keeping:
    """A backend that notes what is to be removed."""

    def __init__(self, backend: LocalBackend, removed: list[str]) -> None:
        self._backend, self._removed = backend, removed

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def remove(self, filepath: str) -> None:
        """Note a file."""
        self._removed.append(filepath)


@HOOKS.register_module()
class StopHook(Hook):
    """Let SIGINT and SIGTERM end a training after a checkpoint.

    The iteration is finished, a checkpoint written, and the process exits
    with 128 and the signal's number, as shells expect it. A loop over epochs
    can only go on from the end of one: there, the last checkpoint is that of
    the CheckpointHook. A second signal ends the process at once. Several
    processes look for signals every tenth iteration, since asking each other
    makes GPUs wait.

    Processes that a training forks, such as those of pools and data loaders,
    have none of this: SIGTERM ends them, and SIGINT, which a terminal sends
    to all, is left to the training, which ends them itself.
    """

    # after the CheckpointHook, which may have saved this iteration
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._signal: int | None = None
        self._before: dict[int, object] = {}

    def before_train(self, runner: Runner) -> None:
        """Listen to signals; only a main thread can."""
        self._signal = None
        with suppress(ValueError):
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note)
            _LISTENING.add(self)

    def after_run(self, runner: Runner) -> None:
        """Leave signals to whoever had them before."""
        self._restore()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Stop if a signal has come.

        Raises:
            SystemExit: one has.
        """
        iterations = runner.iter + 1
        if get_world_size() > 1 and iterations % ASK_EVERY:
            return
        if self._all_stop():
            self._stop(runner, iterations)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: list | None = None,
    ) -> None:
        """Stop within a validation, too; several processes after it.

        Raises:
            SystemExit: a signal has come.
        """
        if self._signal is not None and get_world_size() == 1:
            self._stop(runner, runner.iter)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        self._restore()

    def _all_stop(self) -> bool:
        """Whether a signal came to any process, as all must stop at once."""
        if get_world_size() > 1:
            number = torch.tensor(self._signal or 0)
            all_reduce(number, 'max')
            self._signal = number.item() or None
        return self._signal is not None

    def _restore(self) -> None:
        _LISTENING.discard(self)
        while self._before:
            signal.signal(*self._before.popitem())

    def _stop(self, runner: Runner, iterations: int) -> None:
        name = signal.Signals(self._signal).name
        for hook in runner.hooks:
            if isinstance(hook, SafeCheckpointHook) and not hook.by_epoch:
                name_now = hook.filename_tmpl.format(iterations)
                if Path(str(hook.last_ckpt)).name != name_now:
                    hook.save(runner, iterations)
        # the first that exits has a launcher end the others
        barrier()
        last = runner.message_hub.get_info('last_ckpt', None)
        if is_main_process():
            runner.logger.warning(
                '%s: stopped after iteration %d; %s',
                name,
                iterations,
                f'go on from {last} with --resume'
                if last
                else 'no checkpoint had been written',
            )
        raise SystemExit(128 + self._signal)


# A process that is forked has the handlers of its parent, and Python forgets
# the signals that come before it has found its feet. So signals wait at a
# fork until the child has handlers of its own.
_LISTENING: set[StopHook] = set()
_FORK = threading.local()


def _hold_signals() -> None:
    """Let signals wait, in the thread that is about to fork."""
    _FORK.mask = None
    if _LISTENING:
        _FORK.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _release_signals() -> None:
    """Let them come, in the parent."""
    if _FORK.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _FORK.mask)


def _release_in_child() -> None:
    """Let them come in the child: SIGTERM ends it, SIGINT does not."""
    if _FORK.mask is not None:
        _LISTENING.clear()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _release_signals()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(
        before=_hold_signals,
        after_in_parent=_release_signals,
        after_in_child=_release_in_child,
    )

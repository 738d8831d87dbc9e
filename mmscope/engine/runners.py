"""Runners as the tools need them."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread

from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch.utils.data import DataLoader


class AnsweringRunner(Runner):
    """A Runner that trains nothing, and writes its config beside its log.

    mmengine's writes it into the work dir, over that of the training, which
    later runs read: options of a test would hold for all of them. And what
    mmengine says of environment, config and hooks, hundreds of lines ahead
    of a short answer, goes into the log alone; warnings are printed, too.
    """

    @classmethod
    def from_cfg(cls, cfg: dict | Config) -> AnsweringRunner:
        """Build a runner as mmengine does, and print from then on.

        Args:
            cfg: Complete config.
        """
        runner = super().from_cfg(cfg)
        runner.print_all()
        return runner

    def print_all(self) -> None:
        """Print what is logged from here on, as its level says."""
        for handler, level in self._levels:
            handler.setLevel(level)

    def build_logger(
        self,
        log_level: int | str = 'INFO',
        log_file: str | None = None,
        **options: object,
    ) -> MMLogger:
        """Build mmengine's logger, which prints warnings alone at first.

        Args:
            log_level: Level of what is logged.
            log_file: File of the log; default is in the folder of the log.
            **options: Those of mmengine's ``MMLogger``.
        """
        logger = super().build_logger(log_level, log_file, **options)
        self._levels = [
            (handler, handler.level)
            for handler in logger.handlers
            if not isinstance(handler, logging.FileHandler)
        ]
        for handler, level in self._levels:
            handler.setLevel(max(level, logging.WARNING))
        return logger

    @master_only
    def dump_config(self) -> None:
        """Write the config into the folder of this run's log."""
        name = Path(self.cfg.filename or f'{self.timestamp}.py').name
        self.cfg.dump(Path(self.log_dir) / name)


class TrainingRunner(Runner):
    """A Runner whose data workers outlive signals that it stops after.

    Launchers and batch systems send SIGTERM to whole groups of processes,
    and terminals SIGINT. A data worker that dies of it takes the training
    along before the StopHook can save.
    """

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict,
        seed: int | None = None,
        diff_rank_seed: bool = False,
    ) -> DataLoader:
        """Build a loader as mmengine does, with such workers.

        Args:
            dataloader: A loader, or its config.
            seed: Seed of the workers.
            diff_rank_seed: Whether processes shuffle differently.
        """
        loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        if loader.num_workers and hasattr(signal, 'sigwaitinfo'):
            loader.worker_init_fn = partial(_outlive, loader.worker_init_fn)
        return loader


def _outlive(begin: Callable[[int], None] | None, worker: int) -> None:
    """Begin a data worker that only its training ends.

    torch's worker sees by itself when its training is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    Thread(target=_end_when_told, daemon=True).start()
    if begin is not None:
        begin(worker)


def _end_when_told() -> None:
    """End this process at the first SIGTERM of its parent.

    As a success: torch has a training fail in which a worker did, also where
    multiprocessing ends the last workers as the training's process exits.
    """
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)

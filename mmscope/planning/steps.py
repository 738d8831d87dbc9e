"""Training steps and validation batches of a config, timed on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.runner import Runner
from torch import nn

from mmscope.benchmark.memory import MIB, peak_memory
from mmscope.engine.data_checks import explained
from mmscope.utils.config import type_name

from .batches import noise_samples
from .lengths import length_of

WARM_UP = 2
STEPS = 10  # of each phase
VAL_BATCHES = 5


@dataclass(frozen=True)
class StepTimes:
    """What was measured here, seconds.

    Attributes:
        batch: Images of a step.
        step: A training step, loading of its images included.
        val_batch: A batch of validation, None where it was not timed.
        peak: Most memory that a step took beside what was there before it,
            in bytes, None where the system does not tell.
        real_data: Whether the images were the config's own, and not noise.
    """

    batch: int
    step: float
    val_batch: float | None
    peak: float | None
    real_data: bool


def time_here(
    cfg: Config,
    model: nn.Module,
    alpha: float | Sequence[float] | None,
    tell: Callable[[str], None] = lambda text: None,
) -> StepTimes:
    """Time training steps, and validation where its data are there.

    With the config's own loaders where there are data; with one batch of
    noise for all steps where there are none, so that loading is not in it.
    Where hooks change alpha during training, both phases are timed and
    weighed by their length. The weights of the model change.

    Args:
        cfg: Complete config, with its batch and its optimizer.
        model: Model of the config.
        alpha: Share of cells that the config refines, None without exits.
        tell: Called with what is done next.
    """
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = model.to(device).train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    has_data = length_of(cfg, 'train') is not None
    batches = _batches(cfg, model, has_data)
    means = []
    for share, refined in _phases(cfg, alpha):
        tell(f'{STEPS} training steps')
        if refined is not None:
            model.backbone.alpha = refined
        means.append(share * _mean_step(model, wrapper, batches))
    data = next(batches)
    peak = peak_memory(lambda: model.train_step(data, wrapper), device)
    val = None
    if length_of(cfg, 'val') is not None:
        tell(f'{VAL_BATCHES} batches of validation')
        val = _val_seconds(cfg, model)
    return StepTimes(
        cfg.train_dataloader.batch_size,
        sum(means),
        val,
        None if peak is None else peak * MIB,
        has_data,
    )


def _phases(
    cfg: Config, alpha: float | Sequence[float] | None
) -> list[tuple[float, float | Sequence[float] | None]]:
    """Share of training and alpha of each of its phases."""
    hooks = [*(cfg.get('default_hooks') or {}).values()]
    for hook in hooks + (cfg.get('custom_hooks') or []):
        if type_name(hook) == 'AlphaScheduleHook':
            full = hook.get('full_until', 2 / 3)
            phases = [(full, 1.0), (1 - full, alpha)]
            return [phase for phase in phases if phase[0] > 0]
    return [(1.0, alpha)]


def _batches(cfg: Config, model: nn.Module, has_data: bool) -> Iterator[dict]:
    """Batches without end, as ``train_step`` takes them."""
    if has_data:
        while True:
            yield from _loader(cfg, 'train')
    batch = noise_samples(cfg, model, cfg.train_dataloader.batch_size)
    while True:
        yield deepcopy(batch)  # preprocessors write into samples


def _loader(cfg: Config, split: str) -> Iterable[dict]:
    """The config's loader, without workers that outlive it."""
    settings = dict(cfg[f'{split}_dataloader'])
    if not settings.get('num_workers'):
        settings.pop('prefetch_factor', None)
    settings['persistent_workers'] = False
    with explained(cfg, split):
        return Runner.build_dataloader(settings, seed=0)


def _mean_step(
    model: nn.Module, wrapper: OptimWrapper, batches: Iterator[dict]
) -> float:
    """Mean seconds of a step, the loading of its batch included.

    The mean, and no median: steps that refine more take longer.
    """
    seconds = []
    for index in range(WARM_UP + STEPS):
        start = time.perf_counter()
        model.train_step(next(batches), wrapper)
        _wait()
        if index >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    return statistics.mean(seconds)


def _val_seconds(cfg: Config, model: nn.Module) -> float:
    """Mean seconds of a batch of validation, judged by the metrics."""
    loader = _loader(cfg, 'val')
    evaluator = Evaluator(cfg.val_evaluator)
    evaluator.dataset_meta = loader.dataset.metainfo
    model.eval()
    seconds, batches = [], iter(loader)
    for _ in range(min(1 + VAL_BATCHES, len(loader))):
        start = time.perf_counter()
        with torch.no_grad():
            data = next(batches)
            evaluator.process(model.val_step(data), data)
        _wait()
        seconds.append(time.perf_counter() - start)
    model.train()
    return statistics.mean(seconds[1:] or seconds)


def _wait() -> None:
    """Let the GPU finish, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()

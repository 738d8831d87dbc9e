"""Memory of a long training and of many images: does it stay flat?"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmscope.apis import ScopeInferencer
from mmscope.datasets import write_sample_data
from mmscope.engine.launch import build_runner, load_config

DEMO = Path(__file__).parents[1] / 'configs/demo/mambascope_demo.py'
MIB = 2**20
# until then caches, allocators and libraries settle
SETTLED = 0.3


class MemoryHook(Hook):
    """Note the resident memory after every iteration."""

    def __init__(self) -> None:
        self.sizes: list[float] = []

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Note it."""
        self.sizes.append(resident())


def resident() -> float:
    """Resident memory of this process in MiB."""
    return psutil.Process().memory_info().rss / MIB


def tiny_demo(root: Path, iterations: int) -> Config:
    """The demo's config at its smallest, on data of its own.

    Args:
        root: Folder for data and the run.
        iterations: Iterations of training.
    """
    write_sample_data(root / 'data', num_train=16, num_val=4, size=(64, 96))
    cfg = load_config(str(DEMO), str(root / 'run'))
    cfg.model.data_preprocessor.size = (64, 64)
    cfg.model.backbone.arch = dict(embed_dims=32, num_layers=4, d_state=4)
    cfg.model.backbone.update(img_size=64, out_indices=(0, 1, 2, 3))
    cfg.model.neck.embed_dim = 32
    cfg.model.decode_head.update(in_channels=[32] * 4, channels=32)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0)
        loader.dataset.data_root = str(root / 'data')
        loader.dataset.pop('indices', None)
        for step in loader.dataset.pipeline:
            if 'crop_size' in step:
                step.crop_size = (64, 64)
    cfg.train_dataloader.batch_size = 2
    cfg.train_cfg.update(max_iters=iterations, val_interval=100)
    cfg.default_hooks.checkpoint.update(interval=100, max_keep_ckpts=1)
    return cfg


def train(cfg: Config) -> list[float]:
    """Train, and return the memory after each iteration, in MiB."""
    runner = build_runner(cfg, 'none', ('train', 'val'))
    hook = MemoryHook()
    runner.register_hook(hook, 'LOWEST')
    runner.train()
    return hook.sizes


def infer(cfg: Config, images: int) -> list[float]:
    """Answer images of mixed sizes; the memory after each, in MiB.

    Args:
        cfg: Config of the model, trained.
        images: Number of images.
    """
    weights = (Path(cfg.work_dir) / 'last_checkpoint').read_text()
    answer = ScopeInferencer(cfg, weights, batch_size=4)
    return [resident() for _ in answer.stream(mixed_images(images))]


def mixed_images(number: int) -> Iterator[np.ndarray]:
    """Images of noise whose sides are 8 to 160 pixels."""
    rng = np.random.default_rng(0)
    for _ in range(number):
        height, width = rng.integers(8, 161, 2)
        channels = rng.choice([1, 3, 4])
        yield rng.integers(0, 256, (height, width, channels), np.uint8)


def growth(sizes: list[float]) -> float:
    """How much memory grew once it had settled, in MiB.

    The largest of the last tenth against the largest of the tenth after
    ``SETTLED``: a leak raises it, and single peaks do not.

    Args:
        sizes: Memory after each step.
    """
    tenth = max(1, len(sizes) // 10)
    start = int(SETTLED * len(sizes))
    return max(sizes[-tenth:]) - max(sizes[start : start + tenth])


def draw(curves: dict[str, list[float]], path: Path) -> None:
    """Draw memory over steps.

    Args:
        curves: Memory after each step in MiB, by what the steps are.
        path: Picture to write.
    """
    figure = Figure(figsize=(9, 3), layout='constrained')
    for axes, (name, sizes) in zip(
        figure.subplots(1, len(curves)), curves.items(), strict=True
    ):
        axes.plot(range(1, len(sizes) + 1), sizes, linewidth=1)
        axes.axvline(SETTLED * len(sizes), color='grey', linestyle=':')
        axes.set(xlabel=name, ylabel='resident MiB')
        axes.set_ylim(0, 1.2 * max(sizes))
        axes.set_title(f'{growth(sizes):+.1f} MiB once settled')
    figure.savefig(path, dpi=110)


def main() -> None:
    """Soak, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--iterations', type=int, default=500)
    parser.add_argument('--images', type=int, default=2000)
    parser.add_argument('--picture', type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cfg = tiny_demo(Path(folder), args.iterations)
        curves = {
            'iterations of training': train(cfg),
            'images of the inferencer': infer(cfg, args.images),
        }
    for name, sizes in curves.items():
        print(  # noqa: T201 - it is a tool
            json.dumps(
                dict(
                    steps=f'{len(sizes)} {name}',
                    first=round(sizes[0], 1),
                    largest=round(max(sizes), 1),
                    growth=round(growth(sizes), 1),
                )
            )
        )
    if args.picture:
        draw(curves, args.picture)


if __name__ == '__main__':
    main()

"""How fast exported graphs are beside the model that they came from."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor, nn

from mmscope.benchmark.timing import time_in_turns
from mmscope.models import exit_settings

from .record import ExportRecord
from .runner import OnnxScope

PATHS = {'all exit': 0.0, 'none exits': 1.0}


def bench_export(
    served: Mapping[str, tuple[Path, str]],
    build: Callable[[float], nn.Module],
    batch_sizes: Sequence[int],
    threads: int,
    repeats: int,
) -> list[dict]:
    """Time graphs and model in turns, where all images exit and where none.

    Args:
        served: Folder of :func:`export_onnx` and engine, by what the two are
            called.
        build: Function that builds the model, by the share of its cells.
        batch_sizes: Numbers of images.
        threads: Threads of the engines; those of torch are the caller's.
        repeats: Turns of each.

    Returns:
        For each path, batch size and engine: images a second, and how many
        times those of torch that is.
    """
    records = [ExportRecord.load(folder) for folder, _ in served.values()]
    record = records[0]
    model = build(record.share)
    rows = []
    for batch_size in batch_sizes:
        images = torch.randn(batch_size, 3, *record.image_size)
        for path, eta in PATHS.items():
            jobs = {'torch': partial(_answer, model, images, eta)}
            for name, (folder, engine) in served.items():
                scope = OnnxScope(folder, eta, batch_size, threads, engine)
                jobs[name] = partial(scope, images.numpy())
            times = time_in_turns(jobs, repeats, fatal=(Exception,))
            seconds = {n: one.median / 1e3 for n, one in times.items()}
            rows += [
                dict(
                    path=path,
                    batch_size=batch_size,
                    engine=name,
                    images_per_second=batch_size / each,
                    ratio=seconds['torch'] / each,
                )
                for name, each in seconds.items()
            ]
    return rows


@torch.no_grad()
def _answer(model: nn.Module, images: Tensor, eta: float) -> Tensor:
    """What the runner gives: labels of pixels, or logits of classes."""
    with exit_settings(model, eta=eta):
        if not model.predicts_pixels:
            return model(images)
        size = torch.Size(images.shape[2:])
        logits = model.encode_decode(images, [dict(img_shape=size)])
    return model.labels_of(logits)


def table_of(rows: Sequence[dict]) -> Table:
    """A table of :func:`bench_export`."""
    table = Table('path', 'batch', 'engine', 'images/s', 'of torch')
    for row in rows:
        table.add_row(
            row['path'],
            str(row['batch_size']),
            row['engine'],
            f'{row["images_per_second"]:.1f}',
            f'{row["ratio"]:.2f}',
        )
    return table

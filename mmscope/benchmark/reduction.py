"""What a model gives and costs by how much its tokens are reduced."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

from mmscope.engine.launch import build_runner, load_config
from mmscope.evaluation.task_metric import find_task_metric
from mmscope.models.token_reduction.dynamic import DynamicTokens
from mmscope.utils.flops import model_flops
from mmscope.visualization.figure import save_figure

from .build import default_shape

Record = dict[str, float | str]
SETTINGS = 'model.backbone.token_reduction'


def sweep_reduction(
    config: str,
    checkpoint: str,
    name: str,
    values: Sequence[float],
    work_dir: str,
    options: dict | None = None,
) -> list[Record]:
    """Test a model with each value of a setting of its token reduction.

    Args:
        config: Config file of a model with ``token_reduction``.
        checkpoint: File of its weights.
        name: Setting, such as 'num_merged' or 'ratio'.
        values: Values of it.
        work_dir: Folder for logs.
        options: ``--cfg-options``.

    Returns:
        For each value: itself, 'metric', the name of the score, 'score' in
        percent, 'gflops' of an image of the size that the config trains on,
        and of DynamicTokens 'directions', the share of directions that ran;
        all of them count in 'gflops'.

    Raises:
        ValueError: the backbone reduces no tokens.
    """
    records = []
    for number, value in enumerate(values):
        cfg = load_config(config, work_dir, options)
        reduction = cfg.model.backbone.get('token_reduction')
        if not reduction:
            raise ValueError(
                f'{config} has no model.backbone.token_reduction; set it, for '
                f'example: --cfg-options {SETTINGS}.type=mmscope.TokenMerging'
            )
        reduction[name] = value
        # a Runner for each: logs and hubs go by the name
        cfg.experiment_name = f'reduction_{number}'
        runner = build_runner(cfg, 'none', ('test',), checkpoint)
        main = find_task_metric(runner.test_evaluator.metrics)
        with count_directions(runner.model) as ran:
            scores = runner.test()
        (score,) = (
            float(each)
            for key, each in scores.items()
            if key.split('/')[-1] == main.main
        )
        flops = model_flops(runner.model, default_shape(cfg))
        record = {
            name: value,
            'metric': main.main,
            'score': main.in_points(score),
            'gflops': flops.refined.total() / 1e9,
        }
        if ran:
            record['directions'] = torch.cat(ran).float().mean().item()
        records.append(record)
    return records


@contextmanager
def count_directions(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Note which directions DynamicTokens runs, inside a block of code.

    Args:
        model: A model of mmscope, alone or wrapped by its runner.

    Yields:
        A list that gets, for each block and batch of images, whether a
        direction ran, (B, 2); it stays empty where images have no choice.
    """
    ran: list[torch.Tensor] = []
    handles = [
        gate.register_forward_hook(lambda *args: ran.append(args[-1] > 0))
        for module in model.modules()
        if isinstance(module, DynamicTokens)
        for gate in module.gates
    ]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def plot_reduction(records: Sequence[Record], name: str, path: Path) -> None:
    """Plot the score over GFLOPs, each point with its setting.

    Args:
        records: Records of :func:`sweep_reduction`.
        name: The setting.
        path: Picture to write.
    """
    figure, axis = plt.subplots(figsize=(6.4, 4.4))
    xs = [record['gflops'] for record in records]
    ys = [record['score'] for record in records]
    axis.plot(xs, ys, 'C0o-', markersize=4)
    for record, x, y in zip(records, xs, ys, strict=True):
        axis.annotate(
            f'{record[name]:g}',
            (x, y),
            textcoords='offset points',
            xytext=(3, 5),
            fontsize=8,
        )
    axis.set_xlabel('GFLOPs per image')
    axis.set_ylabel(f'{records[0]["metric"]} (%), by {name}')
    axis.grid(alpha=0.3)
    save_figure(figure, path)

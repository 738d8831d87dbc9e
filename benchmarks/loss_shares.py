"""Which share each loss of a model has in the gradients of its backbone.

python -m benchmarks.loss_shares CONFIG [--checkpoint FILE] [--batches 4]

A loss that is a mean over many classes may be drowned by the others, however
large its value is: what counts is the gradient that reaches the encoder that
all of them share.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping

import torch
from mmengine.config import DictAction
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mmscope.engine.launch import build_runner, load_config
from mmscope.utils.structures import unwrap

Losses = Mapping[str, Tensor | list[Tensor]]


def total_of(losses: Losses) -> dict[str, Tensor]:
    """Each loss as one number; what is no loss is left out."""
    return {
        name: sum(part.mean() for part in parts)
        for name, value in losses.items()
        if 'loss' in name
        and (parts := value if isinstance(value, list) else [value])
    }


def gradient_norms(losses: Losses, module: nn.Module) -> dict[str, float]:
    """Norm of each loss's gradient on the parameters of a module.

    Args:
        losses: Losses as models of OpenMMLab return them.
        module: What they share.

    Returns:
        Norm by name of the loss, 0 where it does not reach the module.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    norms = {}
    for name, loss in total_of(losses).items():
        if not loss.requires_grad:
            norms[name] = 0.0
            continue
        grads = torch.autograd.grad(
            loss, parameters, retain_graph=True, allow_unused=True
        )
        squares = [g.square().sum() for g in grads if g is not None]
        norms[name] = (
            float(torch.stack(squares).sum().sqrt()) if squares else 0.0
        )
    return norms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--checkpoint', help='weights; else initial ones')
    parser.add_argument('--batches', type=int, default=4)
    parser.add_argument('--work-dir', default='work_dirs/loss_shares')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    args = parser.parse_args()
    cfg = load_config(args.config, args.work_dir, args.cfg_options)
    runner = build_runner(cfg, 'none', ('train',), args.checkpoint)
    model = unwrap(runner.model)
    if args.checkpoint is None:
        model.init_weights()
    model.train()
    norms, values = defaultdict(list), defaultdict(list)
    batches = iter(runner.train_loop.dataloader)
    for _ in range(args.batches):
        data = model.data_preprocessor(next(batches), training=True)
        losses = model(**data, mode='loss')
        for name, value in total_of(losses).items():
            values[name].append(value.item())
        for name, norm in gradient_norms(losses, model.backbone).items():
            norms[name].append(norm)
    table = Table('loss', 'value', 'gradient norm', 'of their sum')
    means = {name: sum(each) / len(each) for name, each in norms.items()}
    for name, mean in means.items():
        table.add_row(
            name,
            f'{sum(values[name]) / args.batches:.4g}',
            f'{mean:.4g}',
            f'{100 * mean / sum(means.values()):.1f} %',
        )
    Console(markup=False).print(table)


if __name__ == '__main__':
    main()

"""How far bfloat16 and float16 are from float32, block by block.

python -m benchmarks.numerics CONFIG [--checkpoint FILE] [--size 224 224]

A block's own error is that of its output on float32's input; that of the
stream is what all blocks up to there have brought together.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor, nn

from mmscope.benchmark.build import build_model
from mmscope.engine.launch import load_config
from mmscope.models import exit_settings
from mmscope.utils.checkpoint import load_weights

DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}
KINDS = 'own', 'stream'


class Call(NamedTuple):
    """One run of a block: its name, its inputs and the stream after it."""

    name: str
    inputs: tuple
    stream: Tensor


def stream_of(output: tuple) -> Tensor:
    """The residual stream after a block, (B, L, C), in float32."""
    x, update, _ = output
    return x.float() + update.float()


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference by the norm of what is expected."""
    return float((found - expected).norm() / expected.norm())


def calls_of(model: nn.Module, images: Tensor) -> list[Call]:
    """Run a model, and say what each block got and gave, in order.

    Passes run the same blocks in turn, here with all cells refined: a cell
    that is chosen in one precision alone would hide what is compared.

    Args:
        model: Model with a backbone of mmscope.
        images: Images, (B, 3, H, W).
    """
    layers = list(model.backbone.layers)
    calls, counts = [], {}

    def keep(layer: nn.Module, inputs: tuple, output: tuple) -> None:
        index = layers.index(layer)
        counts[index] = counts.get(index, 0) + 1
        name = f'pass {counts[index]}, block {index}'
        calls.append(Call(name, inputs, stream_of(output)))

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    settings = nullcontext()
    if hasattr(model.backbone, 'exit_head'):
        settings = exit_settings(model, eta=1.0, alpha=1.0)
    with settings:
        model(images, mode='tensor')
    for hook in hooks:
        hook.remove()
    return calls


@torch.no_grad()
def errors_by_block(
    model: nn.Module, images: Tensor, dtype: torch.dtype
) -> dict[str, tuple[float, float]]:
    """Relative errors of each block under autocast.

    Args:
        model: Model with a backbone of mmscope, in evaluation mode.
        images: Images, (B, 3, H, W).
        dtype: Precision of autocast.

    Returns:
        The block's own error and that of the stream, by pass and block.
    """
    expected = calls_of(model, images)
    with torch.autocast(images.device.type, dtype):
        found = calls_of(model, images)
        errors = {}
        for ours, theirs in zip(found, expected, strict=True):
            block = model.backbone.layers[int(theirs.name.split()[-1])]
            own = stream_of(block(*theirs.inputs))
            errors[theirs.name] = (
                relative_error(own, theirs.stream),
                relative_error(ours.stream, theirs.stream),
            )
    return errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--checkpoint', help='default: weights as they start')
    parser.add_argument(
        '--size', type=int, nargs=2, default=(224, 224), help='image size'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.manual_seed(0)
    model = build_model(load_config(args.config))
    if args.checkpoint:
        load_weights(model, args.checkpoint, args.config)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model.to(device)
    images = torch.randn(2, 3, *args.size, device=device)
    heads = 'block', *(f'{n}, {k}' for n in DTYPES for k in KINDS)
    table = Table(
        *(Column(head, no_wrap=True) for head in heads), box=box.MARKDOWN
    )
    columns = [errors_by_block(model, images, one) for one in DTYPES.values()]
    for name in columns[0]:
        table.add_row(
            name, *(f'{v:.1e}' for column in columns for v in column[name])
        )
    Console(width=100).print(table)


if __name__ == '__main__':
    main()

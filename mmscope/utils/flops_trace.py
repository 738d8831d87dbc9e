"""Count the operators that a call runs, also without computing them."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .operator_flops import OPERATORS, layer_norm_flops


def backbone_flops(
    net: nn.Module, shape: tuple[int, int]
) -> tuple[Counter, list[tuple[int, ...]]]:
    """Count any backbone; returns the shapes of its maps as well."""
    net, maps = _on_meta(net), []
    image = torch.empty(1, 3, *shape, device='meta')
    count = traced_flops(lambda: maps.extend(net(image)))
    return count, [tuple(m.shape) for m in maps]


def tail_flops(model: nn.Module, shapes: list[tuple[int, ...]]) -> Counter:
    """Count neck and decode head on maps of these shapes."""
    count, maps = Counter(), [torch.empty(s, device='meta') for s in shapes]
    for name, part in (
        ('neck', getattr(model, 'neck', None)),
        ('head', getattr(model, 'decode_head', None)),
    ):
        if part is None:
            continue
        part, outputs = _on_meta(part), []

        def run(part=part, maps=maps, outputs=outputs) -> None:
            outputs.append(part(maps))

        count[name] += traced_flops(run).total()
        maps = outputs[0]
    return count


def _on_meta(module: nn.Module) -> nn.Module:
    """A copy that knows shapes alone; with gradients, no fused kernels."""
    module = copy.deepcopy(module).to('meta')
    module.eval()  # of some upstream modules, this returns None
    return module


_COMPONENT_OF = {
    'convolution': 'conv',
    '_convolution': 'conv',
    'native_layer_norm': 'norm',
}


def traced_flops(run: Callable[[], object]) -> Counter:
    """Count the operators that a call runs, by component.

    A second way to count, by what really happens. A convolution counts as
    'conv', a product of matrices as 'projections'. The plain torch scan is
    many small operators, of which none is counted: have a call run the C++
    operators.
    """
    mapping, components = {}, dict(_COMPONENT_OF)
    for name, (component, count) in OPERATORS.items():
        namespace, _, operator = name.partition('::')
        packet = getattr(getattr(torch.ops, namespace), operator, None)
        if packet is not None:
            mapping[packet] = _formula(count)
            components[operator] = component
    mapping[torch.ops.aten.native_layer_norm] = _layer_norm
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with counter:
        run()
    total = Counter()
    for operator, twice in counter.get_flop_counts()['Global'].items():
        name = str(operator).rpartition('.')[2]
        # torch counts a multiply-add as two
        total[components.get(name, 'projections')] += twice // 2
    return total


def _formula(count: Callable) -> Callable:
    def twice(*shapes: object, out_shape: object = None, **_: object) -> int:
        return 2 * count(shapes)

    return twice


def _layer_norm(
    shape: tuple[int, ...], *_: object, out_shape: object = None
) -> int:
    return 2 * layer_norm_flops(math.prod(shape[:-1]), shape[-1])

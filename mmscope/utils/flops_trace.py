"""Count the operators that a module runs, without computing them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmscope.ops import use_backend

from .operator_flops import (
    PLAIN_FORMULAS,
    component_of,
    register_operators,
)

T = TypeVar('T')
Maps = Sequence[Tensor]
# multiply-adds by name of the module, then by operator
Counts = Mapping[str, Counter]

# parts of a backbone that are components, whatever they run
PARTS = dict(patch_embed='patch', reuse='reuse', exit_head='head')
# heads that take the maps of the neck as they are
DENSE_HEADS = ('decode_head', 'rpn_head', 'bbox_head')


class _Call(nn.Module):
    """Calls a method of a module, so that torch knows its parts by name."""

    def __init__(self, net: nn.Module, run: Callable[[Any], T]) -> None:
        super().__init__()
        self.net, self.run = net, run

    def forward(self) -> T:
        return self.run(self.net)


def trace(net: nn.Module, run: Callable[[Any], T]) -> tuple[Counts, T]:
    """Count what a module runs; returns the result of ``run`` as well.

    Args:
        net: On the meta device, see :func:`on_meta`.
        run: Calls it.
    """
    register_operators()
    counter = FlopCounterMode(display=False, custom_mapping=PLAIN_FORMULAS)
    with use_backend('torch'), torch.no_grad(), _plain_attention(), counter:
        result = _Call(net, run)()
    counts = {'Global': Counter()} | {
        name.removeprefix('_Call.net').removeprefix('.'): Counter(
            {operator: twice // 2 for operator, twice in each.items()}
        )
        for name, each in counter.get_flop_counts().items()
    }
    return counts, result


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep torch from attention kernels that its counter does not know."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def components(counts: Counts) -> Counter:
    """Sum up what a backbone runs by component."""
    rest, total = Counter(counts['Global']), Counter()
    for name, component in PARTS.items():
        part = counts.get(name, Counter())
        total[component] += part.total()
        rest.subtract(part)
    for operator, number in rest.items():
        total[component_of(operator)] += number
    return +total


def published(counts: Counts) -> Counts:
    """Count as the papers do: one direction of each mixer, and no norms.

    What a mixer has for either direction are its scan, its convolution and
    its batched products; the projections in and out are common to both.
    """
    halves = Counter()
    for name, mixer in counts.items():
        if name.endswith('.mixer'):
            for operator, number in mixer.items():
                common = str(operator).endswith(('.mm', '.addmm'))
                halves[operator] += 0 if common else number // 2
    return {
        name: Counter(
            {
                operator: number
                - (halves[operator] if name == 'Global' else 0)
                for operator, number in each.items()
                if component_of(operator) != 'norm'
            }
        )
        for name, each in counts.items()
    }


def on_meta(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode that knows shapes alone."""
    tensors = [*module.parameters(), *module.buffers()]
    memo = {id(tensor): _shape_of(tensor) for tensor in tensors}
    module = copy.deepcopy(module, memo)
    module.eval()  # of some upstream modules, this returns None
    for part in module.modules():
        if isinstance(getattr(part, 'backend', None), str):
            part.backend = None  # kernels asked for by name do not run here
    return module


def _shape_of(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device='meta')
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, tensor.requires_grad)
    return empty


def tail_flops(
    model: nn.Module,
    maps: Maps,
    proposals: int,
    masks: int,
    training: bool = False,
) -> Counter:
    """Count neck and heads behind a backbone.

    Args:
        model: With ``neck`` and heads of mmseg or mmdet, where it has any.
        maps: Maps of the backbone, on the meta device.
        proposals: Boxes that heads of regions look at.
        masks: Boxes that get a mask.
        training: Whether to count auxiliary heads.
    """
    count = Counter()
    if getattr(model, 'neck', None) is not None:
        counts, maps = trace(on_meta(model.neck), lambda neck: neck(maps))
        count['neck'] += counts['Global'].total()
    names = (*DENSE_HEADS, 'auxiliary_head') if training else DENSE_HEADS
    for head in (h for n in names for h in _listed(getattr(model, n, None))):
        counts, _ = trace(on_meta(head), lambda head: head(maps))
        count['head'] += counts['Global'].total()
    roi_head = getattr(model, 'roi_head', None)
    for kind, number in (('bbox', proposals), ('mask', masks)):
        count['head'] += _region_flops(roi_head, kind, number)
    return +count


def _region_flops(roi_head: nn.Module | None, kind: str, number: int) -> int:
    """Count the heads of all stages that look at regions of the maps."""
    heads = _listed(getattr(roi_head, f'{kind}_head', None))
    extractors = _listed(getattr(roi_head, f'{kind}_roi_extractor', None))
    total = 0
    for stage, head in enumerate(heads):
        extractor = extractors[min(stage, len(extractors) - 1)]
        shape = (number, extractor.out_channels)
        size = extractor.roi_layers[0].output_size
        regions = torch.empty(*shape, *size, device='meta')
        counts, _ = trace(on_meta(head), lambda head, x=regions: head(x))
        total += counts['Global'].total()
    return total


def _listed(module: nn.Module | None) -> list[nn.Module]:
    if module is None:
        return []
    return list(module) if isinstance(module, nn.ModuleList) else [module]

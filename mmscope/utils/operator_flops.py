"""What mmscope's operators cost, for every tool that counts.

A multiply-add is one, as in mmengine and fvcore; of the scan, whose
exponentials and sums are no multiply-adds, each operation is one. mmengine
and torch's ``FlopCounterMode`` (where a multiply-add is two) learn of the
operators when this module is imported; of Triton's, which nobody needs
without a GPU, when :func:`register_operators` is called.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from math import prod
from typing import Any

import torch
from mmengine.analysis import complexity_analysis
from mmengine.analysis.jit_handles import get_shape
from torch.utils.flop_counter import flop_registry, register_flop_formula

Shapes = Sequence[Sequence[int] | None]
Count = Callable[[Shapes], int]


def scan_flops(
    tokens: int, channels: int, states: int, directions: int = 2
) -> int:
    """Count a selective scan: 9 for each state, then skip and gate.

    The 9 are those of mamba_ssm's authors for a parallel scan, which other
    papers took over.

    Args:
        tokens: Tokens L of all images.
        channels: Inner channels D.
        states: States S of a channel.
        directions: How often the tokens are scanned.
    """
    return directions * tokens * channels * (9 * states + 2)


def _scan(shapes: Shapes) -> int:
    (directions, batch, length, channels), states = shapes[0], shapes[2][-1]
    return scan_flops(batch * length, channels, states, directions)


def _kernel_scan(shapes: Shapes) -> int:
    """Of mamba_ssm's layout, the directions side by side as channels."""
    (batch, channels, length), states = shapes[0], shapes[2][-1]
    return scan_flops(batch * length, channels, states, directions=1)


def _conv(shapes: Shapes) -> int:
    """A depthwise convolution along the tokens, in both directions."""
    return prod(shapes[0]) * shapes[1][0] * shapes[1][-1]


def _rms_norm(shapes: Shapes) -> int:
    """Squares, scale and weight."""
    return 3 * prod(shapes[0])


def _layer_norm(shapes: Shapes) -> int:
    """As mmengine counts it."""
    return 5 * prod(shapes[0])


# component and count, from the shapes of the operator's arguments
OPERATORS: dict[str, tuple[str, Count]] = {
    'mmscope::scan_forward': ('scan', _scan),
    'mmscope::torch_scan_forward': ('scan', _scan),
    'mmscope::triton_scan_forward': ('scan', _scan),
    'mmscope::mamba_ssm_scan': ('scan', _kernel_scan),
    'mmscope::conv_forward': ('conv', _conv),
    'mmscope::bidirectional_conv': ('conv', _conv),
    'mmscope::rms_norm_forward': ('norm', _rms_norm),
    'mmscope::add_rms_norm': ('norm', _rms_norm),
}
# modules that define them; those of Triton need it installed
DEFINED_IN = (
    *('mmscope.ops.scan.torch', 'mmscope.ops.scan.mamba_ssm'),
    *('mmscope.ops.scan.triton.operator', 'mmscope.ops.conv.triton'),
    'mmscope.ops.norm.triton',
)
# what plain torch runs in their place, as mmengine's tracer sees it
PLAIN_TORCH: dict[str, Count] = {
    'aten::rms_norm': _rms_norm,
    'aten::addcmul': lambda shapes: max(prod(s) for s in shapes if s),
}


def register_operators() -> None:
    """Let torch's ``FlopCounterMode`` count every operator there is."""
    for module in DEFINED_IN:
        with suppress(ImportError):
            import_module(module)
    _tell_torch()


def _tell_torch() -> None:
    for name, (_, count) in OPERATORS.items():
        packet = getattr(torch.ops.mmscope, name.partition('::')[2], None)
        if packet is not None and packet not in flop_registry:
            register_flop_formula(packet)(_formula(count))


def _formula(count: Count) -> Callable[..., int]:
    def twice(*shapes: object, out_shape: object = None, **_: object) -> int:
        return 2 * count(shapes)

    return twice


def _square(shape: Sequence[int], exponent: object, **_: object) -> int:
    """The one square in a plain RMSNorm; scale and weight go with it."""
    return 2 * _rms_norm([shape]) if exponent == 2 else 0


# what plain torch runs in their place, as torch's counter sees it
PLAIN_FORMULAS: dict[Any, Callable[..., int]] = {
    torch.ops.aten.addcmul: _formula(PLAIN_TORCH['aten::addcmul']),
    torch.ops.aten.pow: _square,
    torch.ops.aten.native_layer_norm: _formula(_layer_norm),
}
COMPONENTS_OF = {
    **{name.partition('::')[2]: part for name, (part, _) in OPERATORS.items()},
    **dict(convolution='conv', _convolution='conv', addcmul='conv'),
    **dict(native_layer_norm='norm', pow='norm'),
}


def component_of(operator: object) -> str:
    """Component that an operator of torch belongs to, by its name alone."""
    name = str(operator).rpartition('.')[2]
    return COMPONENTS_OF.get(name, 'projections')


def _handle(count: Count) -> Callable:
    def count_node(inputs: list[Any], outputs: list[Any]) -> int:
        return count([get_shape(value) for value in inputs])

    return count_node


def _tell_mmengine() -> None:
    """Let mmengine's ``get_model_complexity_info`` count the operators.

    The reference scan is many small operators, which mmengine cannot tell
    from others and does not count.
    """
    table = complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS
    for name, (_, count) in OPERATORS.items():
        table[name] = _handle(count)
    for name, count in PLAIN_TORCH.items():
        table.setdefault(name, _handle(count))


_tell_mmengine()
_tell_torch()

"""What mmscope's operators cost, for every tool that counts.

A multiply-add is one, as in mmengine and fvcore; of the scan, whose
exponentials and sums are no multiply-adds, each operation is one. mmengine
learns of the operators when this module is imported.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from mmengine.analysis import complexity_analysis
from mmengine.analysis.jit_handles import get_shape

Shapes = Sequence[Sequence[int] | None]


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


def conv_flops(
    tokens: int, channels: int, taps: int, directions: int = 2
) -> int:
    """Count a depthwise convolution along the tokens."""
    return directions * tokens * channels * taps


def rms_norm_flops(tokens: int, channels: int) -> int:
    """Count RMSNorm: squares, scale and weight."""
    return 3 * tokens * channels


def layer_norm_flops(tokens: int, channels: int) -> int:
    """Count LayerNorm as mmengine does."""
    return 5 * tokens * channels


def _scan(shapes: Shapes) -> int:
    (directions, batch, length, channels), states = shapes[0], shapes[2][-1]
    return scan_flops(batch * length, channels, states, directions)


def _conv(shapes: Shapes) -> int:
    (batch, length, channels), (directions, _, taps) = shapes[:2]
    return conv_flops(batch * length, channels, taps, directions)


def _rms_norm(shapes: Shapes) -> int:
    *tokens, channels = shapes[0]
    return rms_norm_flops(prod(tokens), channels)


# component and count, from the shapes of the operator's arguments
OPERATORS: dict[str, tuple[str, Callable[[Shapes], int]]] = {
    'mmscope::scan_forward': ('scan', _scan),
    'mmscope::torch_scan_forward': ('scan', _scan),
    'mmscope::triton_scan_forward': ('scan', _scan),
    'mmscope::mamba_ssm_scan': ('scan', _scan),
    'mmscope::conv_forward': ('conv', _conv),
    'mmscope::bidirectional_conv': ('conv', _conv),
    'mmscope::rms_norm_forward': ('norm', _rms_norm),
    'mmscope::add_rms_norm': ('norm', _rms_norm),
}
# what goes with the plain torch scan
PLAIN_TORCH = {
    'aten::rms_norm': _rms_norm,
    'aten::addcmul': lambda shapes: max(prod(s) for s in shapes if s),
}


def _handle(count: Callable[[Shapes], int]) -> Callable:
    def count_node(inputs: list[Any], outputs: list[Any]) -> int:
        return count([get_shape(value) for value in inputs])

    return count_node


def tell_mmengine() -> None:
    """Let mmengine's ``get_model_complexity_info`` count the operators.

    The reference scan is many small operators, which mmengine cannot tell
    from others and does not count.
    """
    table = complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS
    for name, (_, count) in OPERATORS.items():
        table[name] = _handle(count)
    for name, count in PLAIN_TORCH.items():
        table.setdefault(name, _handle(count))


tell_mmengine()

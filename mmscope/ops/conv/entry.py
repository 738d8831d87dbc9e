"""Depthwise convolution and SiLU, causal in either direction, token-major.

In C++ (``csrc/conv.h``) on CPU, in Triton on GPUs, else in plain torch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backends import layer_kernels
from ..forward_mode import refuse_in
from ..scan.cpu import NOT_BUILT
from ..scan.shapes import check_inputs

LAYOUT = {'x': 'B, L, D', 'weight': '2, D, K', 'bias': '2, D'}


def plain_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See :func:`bidirectional_conv`; in the dtype of ``x``.

    A sum of shifted products: on CPU some four times faster than transposing
    for ``conv1d``.
    """
    length, taps = x.shape[1], weight.shape[-1]
    x = F.pad(x, (0, 0, taps - 1, taps - 1))
    outputs = []
    for direction in (0, 1):
        kernel = weight[direction].to(x.dtype)
        out = bias[direction].to(x.dtype)
        for tap in range(taps):
            start = 2 * (taps - 1) - tap if direction else tap
            shifted = x[:, start : start + length]
            out = torch.addcmul(out, shifted, kernel[:, tap])
        outputs.append(out)
    return F.silu(torch.stack(outputs))


def _fake_forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(2, *x.shape)


def _fake_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in (x, weight, bias))


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.mmscope.conv_backward(grad, *ctx.saved_tensors)
    return tuple(
        grad if need else None
        for grad, need in zip(grads, ctx.needs_input_grad, strict=True)
    )


if NOT_BUILT is None:
    torch.library.register_fake('mmscope::conv_forward', _fake_forward)
    torch.library.register_fake('mmscope::conv_backward', _fake_backward)
    torch.library.register_autograd(
        'mmscope::conv_forward', _backward, setup_context=_setup_context
    )
    refuse_in('conv_forward')


def bidirectional_conv(
    x: Tensor, weight: Tensor, bias: Tensor, backend: str | None = None
) -> Tensor:
    """SiLU of a depthwise convolution, causal in either direction.

    The last tap is the token's own in both directions; the first is that of
    the token K - 1 back (direction 0) or ahead (direction 1). Beyond the ends
    tokens are zero. Computed in float32
    in C++ and Triton (float64 in C++ if ``x`` is).

    Args:
        x: Tokens, (B, L, D); rows may be far apart, as in half of a
            projection.
        weight: Taps of either direction, (2, D, K).
        bias: (2, D).
        backend: Name of a scan backend, see :func:`layer_kernels`.

    Returns:
        (2, B, L, D), dtype of ``x``.

    Raises:
        TypeError: a tensor is not of real floating point numbers.
        ValueError: the shapes or the devices do not agree.
    """
    check_inputs(LAYOUT, {'x': x, 'weight': weight, 'bias': bias})
    kernels = layer_kernels('conv', x, backend)
    if kernels == 'cpu':
        return torch.ops.mmscope.conv_forward.default(x, weight, bias)
    if kernels == 'triton':
        from .triton import triton_conv

        return triton_conv(x, weight, bias)
    return plain_conv(x, weight, bias)

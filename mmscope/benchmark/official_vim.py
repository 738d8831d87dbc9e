"""The calls that the official Vim makes, on weights of our Vision Mamba."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmscope.models import VisionMambaBackbone
from mmscope.models.encoder import Encoded, Tables
from mmscope.models.layers import BiMambaMixer, ScoreMetric
from mmscope.ops import rms_norm, scan_backends
from mmscope.registry import MODELS


class StockKernels(NamedTuple):
    """What the official Vim calls.

    Attributes:
        names: Origin of each of them.
        scan: Scan, from u, delta (B, D, L), A (D, S), B, C (B, 1, S, L),
            D (D,), z (B, D, L) and delta's bias (D,) to the gated output
            (B, D, L).
        conv: Convolution, from x (B, D, L), taps (D, K) and bias (D,) to the
            SiLU of the causal convolution, (B, D, L).
        add_norm: Norm, from hidden and residual (B, L, C), weight (C,) and
            eps to the norm of their sum, and the sum in float32; the residual
            is None in the first block.
    """

    names: dict[str, str]
    scan: Callable[..., Tensor]
    conv: Callable[[Tensor, Tensor, Tensor], Tensor]
    add_norm: Callable[..., tuple[Tensor, Tensor]]


class KernelScan(torch.autograd.Function):
    """mamba_ssm's ``selective_scan_fn``, by its compiled module alone.

    The Python package around it imports much else that may be missing.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        """Scan; the inputs are those of :attr:`StockKernels.scan`."""
        kernel = import_module('selective_scan_cuda')
        *tensors, delta_bias = inputs
        out, states, gated = kernel.fwd(*tensors, delta_bias, True)
        ctx.save_for_backward(*inputs, states, out)
        return gated

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """Gradients of all inputs."""
        kernel = import_module('selective_scan_cuda')
        *inputs, states, out = ctx.saved_tensors
        if grad.stride(-1) != 1:
            grad = grad.contiguous()
        du, ddelta, dA, dB, dC, dD, dbias, dz = kernel.bwd(
            *inputs, grad, states, out, None, True, False
        )
        return du, ddelta, dA, dB, dC, dD, dz, dbias


def plain_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See :attr:`StockKernels.conv`; what Vim runs without causal_conv1d."""
    channels, taps = weight.shape
    out = F.conv1d(x, weight[:, None], bias, padding=taps - 1, groups=channels)
    return F.silu(out[..., : x.shape[-1]])


def plain_add_norm(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See :attr:`StockKernels.add_norm`; an addition and our norm."""
    residual = hidden.float() if residual is None else residual + hidden
    return rms_norm(residual, weight, eps), residual


def why_no_kernels(device: str = 'cuda') -> str | None:
    """Why mamba_ssm's kernel cannot run on a device, None if it can."""
    return scan_backends(torch.empty(0, device=device))['mamba_ssm']


def stock_kernels() -> StockKernels:
    """The kernels of mamba_ssm, and causal_conv1d's where that is there."""
    names = dict(scan='mamba_ssm', conv='causal_conv1d', add_norm='mamba_ssm')
    conv, add_norm = _causal_conv, _fused_add_norm
    # broken packages fail in many ways when they are imported
    try:
        import_module('causal_conv1d')
    except Exception as error:
        conv, names['conv'] = plain_conv, f'F.conv1d ({error})'
    try:
        import_module('mamba_ssm.ops.triton.layer_norm')
    except Exception as error:
        add_norm, names['add_norm'] = plain_add_norm, f'mmscope ({error})'
    return StockKernels(names, KernelScan.apply, conv, add_norm)


def _causal_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    from causal_conv1d import causal_conv1d_fn

    return causal_conv1d_fn(x, weight, bias, activation='silu')


def _fused_add_norm(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    from mamba_ssm.ops.triton.layer_norm import rms_norm_fn

    return rms_norm_fn(
        *(hidden, weight, None, residual),
        eps=eps,
        prenorm=True,
        residual_in_fp32=True,
    )


@MODELS.register_module()
class OfficialVim(VisionMambaBackbone):
    """Our Vision Mamba, its blocks run as the official Vim runs them.

    Tokens along the last axis, both halves of the input projection turned
    round for the second direction, two scans of stock kernels, the second
    turned back: to be timed beside our own.

    Args:
        kernels: What is called; default :func:`stock_kernels`, looked for at
            the first forward pass.
        **options: VisionMambaBackbone's own arguments, which it checks.

    Raises:
        ValueError: tokens are to be rotated or reduced, which is ours alone.
    """

    def __init__(
        self, kernels: StockKernels | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        if self.rope or self.token_reduction is not None:
            raise ValueError(
                'OfficialVim runs the sequence of plain blocks: leave out '
                'rope and token_reduction'
            )
        self.kernels = kernels

    def encode(
        self,
        x: Tensor,
        score: ScoreMetric | None = None,
        score_layers: Sequence[int] = (),
        beta: float = 0.0,
        rotary: Tables | None = None,
    ) -> Encoded:
        """See :meth:`VimEncoder.encode`; it scores and rotates no tokens.

        Raises:
            RuntimeError: mamba_ssm's kernel cannot run here.
        """
        if x.is_meta:  # no kernel; a count of the work is the same
            return super().encode(x, score, score_layers, beta)
        if self.kernels is None:
            if reason := why_no_kernels(x.device):
                raise RuntimeError(f'OfficialVim cannot run here: {reason}')
            self.kernels = stock_kernels()
        if self.block_graphs is None:
            *levels, last = self._run_stock(x)
        else:
            *levels, last = self.block_graphs(
                self._run_stock, self.layers, x, self.out_indices
            )
        return Encoded(tuple(levels), last, None)

    def _run_stock(self, x: Tensor) -> tuple[Tensor, ...]:
        """Outputs of ``out_indices`` and of the last block."""
        levels, hidden, residual = [], x, None
        for index, layer in enumerate(self.layers):
            norm = layer.norm
            hidden, residual = self.kernels.add_norm(
                hidden, residual, norm.weight, norm.eps
            )
            hidden = mix(self.kernels, layer.mixer, hidden)
            if index in self.out_indices:
                levels.append(residual + hidden)
        return *levels, residual + hidden


def mix(kernels: StockKernels, mixer: BiMambaMixer, x: Tensor) -> Tensor:
    """The official mixer, (B, L, C) to (B, L, C)."""
    batch, length, _ = x.shape
    xz = mixer.in_proj.weight @ x.flatten(0, 1).T
    xz = xz.unflatten(1, (batch, length)).transpose(0, 1)
    out = _one_direction(kernels, mixer, 0, xz)
    back = _one_direction(kernels, mixer, 1, xz.flip(-1))
    out = (out + back.flip(-1)).mT / 2
    return F.linear(out, mixer.out_proj.weight)


def _one_direction(
    kernels: StockKernels, mixer: BiMambaMixer, at: int, xz: Tensor
) -> Tensor:
    """Convolution, projections and scan; (B, 2D, L) to (B, D, L)."""
    batch, _, length = xz.shape
    x, z = xz.chunk(2, dim=1)
    u = kernels.conv(x, mixer.conv_weight[at], mixer.conv_bias[at])
    params = F.linear(u.mT.flatten(0, 1), mixer.x_proj[at])
    rank, states = mixer.dt_rank, mixer.d_state
    delta, B, C = params.split([rank, states, states], dim=-1)
    delta = (mixer.dt_proj[at] @ delta.T).unflatten(1, (batch, length))
    B, C = (
        t.unflatten(0, (batch, length)).mT[:, None].contiguous()
        for t in (B, C)
    )
    A = -mixer.A_log[at].float().exp()
    D, dt_bias = mixer.D[at].float(), mixer.dt_bias[at].float()
    return kernels.scan(u, delta.transpose(0, 1), A, B, C, D, z, dt_bias)

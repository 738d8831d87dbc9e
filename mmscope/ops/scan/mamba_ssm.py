"""The 'mamba_ssm' scan backend: the CUDA kernel of the mamba-ssm package.

Only its extension module ``selective_scan_cuda`` is imported, and that only
when it is used: the package itself imports much else that may be missing.

The kernel reads (B, Dim, L), dense along L, scans from the first token to the
last, and takes B and C per group of channels, (B, G, S, L). So the directions
are laid side by side as groups, the backward ones flipped, and one launch
scans them all. It is called without a gate: the mean over the directions and
the importance both need the output before it.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..forward_mode import refuse
from .inputs import Inputs, Options
from .reference import importance_of

MODULE = 'selective_scan_cuda'
TOKENS_PER_STATE = 2048  # the kernel keeps the state after so many tokens
MAX_STATES = 256
FIX = (
    'build it with MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation'
    ' --no-binary mamba-ssm mamba-ssm'
)


INSTALLED = importlib.util.find_spec(MODULE) is not None


@lru_cache
def import_error() -> str | None:
    """Why the installed module cannot be imported; tried once."""
    try:
        importlib.import_module(MODULE)
    except ImportError as error:  # most often built for another torch
        return f'the module {MODULE} cannot be imported ({error}); {FIX}'
    return None


def why_not(u: Tensor) -> str | None:
    """Why mamba_ssm's kernel cannot run on a tensor like ``u``."""
    if u.dtype == torch.float64:
        return (
            'it computes in float32 and u is float64; '
            "cast u, or choose backend='torch'"
        )
    if not INSTALLED:
        return f'the module {MODULE} of mamba-ssm is not installed; {FIX}'
    if not u.is_cuda:
        return (
            f'it needs CUDA tensors and u is on {u.device}; move the model '
            "and its input to a GPU, or choose backend='torch'"
        )
    # torch.compile cannot trace an import: the kernel's own error must do
    return None if torch.compiler.is_compiling() else import_error()


def _kernel() -> ModuleType:
    return importlib.import_module(MODULE)


@torch.library.custom_op('mmscope::mamba_ssm_scan', mutates_args=())
def scan_op(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Call the kernel on tensors as it wants them.

    Args:
        u, delta: (B, G * Dim, L), contiguous, one dtype with B and C.
        A: (G * Dim, S), float32.
        B, C: (B, G, S, L), contiguous.
        D, delta_bias: (G * Dim,), float32.

    Returns:
        y as u, and states for the backward pass.
    """
    refuse('mamba_ssm_scan')
    if u.numel() == 0:
        return torch.empty_like(delta), A.new_empty(0)
    out, states, *_ = _kernel().fwd(
        u, delta, A, B, C, D, None, delta_bias, delta_softplus
    )
    return out, states


@scan_op.register_fake
def _(
    u: Tensor, delta: Tensor, A: Tensor, *rest: Tensor | bool | None
) -> tuple[Tensor, Tensor]:
    batch, channels, length = u.shape
    if batch == 0:
        return torch.empty_like(delta), A.new_empty(0)
    kept = (length + TOKENS_PER_STATE - 1) // TOKENS_PER_STATE
    return torch.empty_like(delta), A.new_empty(
        batch, channels, kept, 2 * A.shape[1]
    )


@torch.library.custom_op('mmscope::mamba_ssm_scan_backward', mutates_args=())
def scan_backward_op(
    grad: Tensor,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> list[Tensor]:
    """Gradients of u, delta, A, B, C and, where given, D and delta_bias."""
    given = (u, delta, A, B, C, D, delta_bias)
    if u.numel() == 0:
        return [torch.zeros_like(t) for t in given if t is not None]
    # the kernel reads out, dz and a gate only where there is a gate
    grads = _kernel().bwd(
        *(u, delta, A, B, C, D, None, delta_bias, grad.contiguous(), states),
        *(None, None, delta_softplus, False),
    )
    return [
        grad for grad, t in zip(grads, given, strict=False) if t is not None
    ]


@scan_backward_op.register_fake
def _(
    grad: Tensor, states: Tensor, *given: Tensor | bool | None
) -> list[Tensor]:
    return [torch.empty_like(t) for t in given[:-1] if t is not None]


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, ctx.delta_softplus = inputs
    states = output[1]
    ctx.mark_non_differentiable(states)
    ctx.save_for_backward(states, *tensors)


def _backward(
    ctx: Any, grad: Tensor, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    states, *tensors = ctx.saved_tensors
    given = iter(scan_backward_op(grad, states, *tensors, ctx.delta_softplus))
    return *(None if t is None else next(given) for t in tensors), None


scan_op.register_autograd(_backward, setup_context=_setup_context)


def _side_by_side(
    x: Tensor, reverse: tuple[bool, ...], dtype: torch.dtype
) -> Tensor:
    """(G, B, L, F) in scan order, as (B, G, F, L), contiguous."""
    parts = [
        tokens.flip(1) if backward else tokens
        for tokens, backward in zip(x.to(dtype), reverse, strict=True)
    ]
    return torch.stack([part.mT for part in parts], dim=1).contiguous()


def _token_major(y: Tensor, reverse: tuple[bool, ...]) -> Tensor:
    """(B, G * Dim, L) in scan order, back to (G, B, L, Dim)."""
    parts = y.unflatten(1, (len(reverse), -1)).mT.unbind(1)
    return torch.stack(
        [
            part.flip(1) if backward else part
            for part, backward in zip(parts, reverse, strict=True)
        ]
    )


def mamba_ssm_scan(
    inputs: Inputs, options: Options
) -> tuple[Tensor, Tensor | None]:
    """Scan by mamba_ssm's kernel; see ``ScanCore``.

    The kernel rounds its output to the dtype of its input, so where the
    importance is asked for it is given float32.
    """
    u, delta, A, B, C, D, z, delta_bias = inputs
    softplus, reverse, merge, importance = options
    if A.shape[-1] > MAX_STATES:
        raise RuntimeError(
            f'mamba_ssm takes up to {MAX_STATES} states, got {A.shape[-1]}; '
            "choose backend='torch'"
        )
    given = u.dtype
    dtype = torch.float32 if importance else given
    tokens = [_side_by_side(x, reverse, dtype) for x in (u, delta, B, C)]
    A, D, delta_bias = (
        None if x is None else x.float().flatten(0, 1).contiguous()
        for x in (A, D, delta_bias)
    )
    u_delta = (x.flatten(1, 2) for x in tokens[:2])
    y, _ = scan_op(*u_delta, A, *tokens[2:], D, delta_bias, softplus)
    y = _token_major(y, reverse)
    score = importance_of(y) if importance else None
    out = y.float()
    if merge:
        out = out.mean(dim=0)
    if z is not None:
        out = out * F.silu(z.float())
    return out.to(given), score

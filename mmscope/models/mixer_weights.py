"""A mixer's weights as its forward pass reads them, kept for inference."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class MixerWeights(NamedTuple):
    """Weights of both directions together.

    Attributes:
        conv, conv_bias: Taps (2, D, K) and (2, D).
        x_proj: (2, D, R + 2S).
        dt_proj, dt_bias: (2, R, D) and (2, D).
        A: Negative, (2, D, S).
        D: (2, D).
    """

    conv: Tensor
    conv_bias: Tensor
    x_proj: Tensor
    dt_proj: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor

    @classmethod
    def of(cls, mixer: nn.Module) -> MixerWeights:
        """Put the directions of a ``BiMambaMixer`` together."""
        convs = (mixer.conv1d, mixer.conv1d_b)
        x_projs = (mixer.x_proj, mixer.x_proj_b)
        dt_projs = (mixer.dt_proj, mixer.dt_proj_b)
        return cls(
            torch.stack([conv.weight.squeeze(1) for conv in convs]),
            torch.stack([conv.bias for conv in convs]),
            torch.stack([proj.weight for proj in x_projs]).mT,
            torch.stack([proj.weight for proj in dt_projs]).mT,
            torch.stack([proj.bias for proj in dt_projs]),
            torch.stack([mixer.A_log, mixer.A_b_log]).exp().neg(),
            torch.stack([mixer.D, mixer.D_b]),
        )

    def cast_products(self, dtype: torch.dtype) -> MixerWeights:
        """Cast what autocast would cast at every call."""
        return self._replace(
            x_proj=self.x_proj.to(dtype), dt_proj=self.dt_proj.to(dtype)
        )


class _Kept(NamedTuple):
    """Weights, and what tells whether they are still right.

    Attributes:
        weights: The weights.
        dtype: That autocast asked for, None without it.
        states: Version and address of each parameter: a change in place
            counts its version up, a new tensor has another address.
        memory: The parameters' own, so that no other gets its address.
    """

    weights: MixerWeights
    dtype: torch.dtype | None
    states: list[tuple[int, int]]
    memory: list[Tensor]


class WeightCache:
    """Keeps a mixer's weights between forward passes without gradients.

    Every pass compares the parameters with those that the weights were made
    of, so updates, loading and moves to a device or dtype need no call. Not
    seen is a write to ``parameter.data``, which torch does not count: call
    ``eval()`` or ``train()`` on the model after it, which forget.

    It is no part of the state dict, and a copy or pickle of it is empty.
    """

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def __reduce__(self) -> tuple:
        return WeightCache, ()

    def clear(self) -> None:
        """Forget the weights."""
        self._kept = None

    def weights(self, mixer: nn.Module) -> MixerWeights:
        """Return the weights of ``mixer``, made anew where needed."""
        if mixer.training or not _may_keep(mixer.A_log):
            return MixerWeights.of(mixer)
        parameters = _parameters(mixer)
        if any(p.is_inference() for p in parameters):
            return MixerWeights.of(mixer)  # their changes are not counted
        dtype, kept = _autocast_dtype(parameters[0]), self._kept
        states = [(p._version, p.data_ptr()) for p in parameters]
        # one read of self._kept: threads may share it
        if kept is not None and kept.dtype == dtype and kept.states == states:
            return kept.weights
        weights = MixerWeights.of(mixer)
        if dtype is not None:
            weights = weights.cast_products(dtype)
        if type(weights.A) is Tensor:  # else fake, while something traces
            memory = [p.detach() for p in parameters]
            self._kept = _Kept(weights, dtype, states, memory)
        return weights


def _parameters(mixer: nn.Module) -> list[nn.Parameter]:
    """All of them; some ten times faster than ``mixer.parameters()``."""
    own = list(mixer._parameters.values())
    for child in mixer._modules.values():
        own += child._parameters.values()
    return [p for p in own if p is not None]


def _may_keep(parameter: Tensor) -> bool:
    """Whether weights may outlive this call.

    A compiler or a CUDA graph would take what is kept for a constant.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return not (parameter.is_cuda and torch.cuda.is_current_stream_capturing())


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    kind = x.device.type
    if x.dtype == torch.float64 or x.is_meta:
        return None
    return (
        torch.get_autocast_dtype(kind)
        if torch.is_autocast_enabled(kind)
        else None
    )

"""Blocks of Vision Mamba, with Vim's parameter names."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mmscope.functional import importance_score
from mmscope.functional.checks import check_choice
from mmscope.functional.importance import DIRECTIONS, METRICS
from mmscope.ops import bidirectional_conv, bidirectional_scan, rms_norm

from .mixer_weights import MixerWeights, WeightCache


def at_least_float32(tensor: Tensor) -> Tensor:
    """Cast half precision to float32 and leave wider types alone."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class RMSNorm(nn.RMSNorm):
    """RMSNorm of the float32 residual stream, in the weights' precision.

    Args:
        embed_dims: Token channels C.
        scan_backend: Of the scan: the norm runs in the kernels that come
            with it.
    """

    def __init__(self, embed_dims: int, scan_backend: str = 'auto') -> None:
        super().__init__(embed_dims, eps=1e-5)
        self.backend = None if scan_backend == 'auto' else scan_backend

    def forward(self, x: Tensor) -> Tensor:
        """Normalise along the last axis, (..., C)."""
        return rms_norm(x, self.weight, self.eps, self.backend)


class ScoreMetric(NamedTuple):
    """How a mixer scores its tokens, see :func:`importance_score`."""

    metric: str = 'max_softplus'
    direction: str = 'max'
    num_top: int = 8

    @classmethod
    def parse(cls, importance: str | dict) -> 'ScoreMetric':
        """Read the ``importance`` argument of a backbone.

        Raises:
            ValueError: it has other keys, or unknown choices.
        """
        if isinstance(importance, str):
            importance = dict(metric=importance)
        unknown = set(importance) - set(cls._fields)
        if unknown:
            raise ValueError(
                f'importance takes {cls._fields}, got {sorted(unknown)}'
            )
        parsed = cls(**importance)
        check_choice('importance metric', parsed.metric, METRICS)
        check_choice('importance direction', parsed.direction, DIRECTIONS)
        return parsed

    @property
    def fused(self) -> bool:
        """Whether the scan itself returns this score."""
        return self.metric == 'max_softplus' and self.direction == 'max'


class PatchEmbed(nn.Module):
    """Cut an image into patches and project them.

    Args:
        in_channels: Image channels.
        embed_dims: Token channels C.
        patch_size: Side of a patch in pixels.
    """

    def __init__(
        self, in_channels: int, embed_dims: int, patch_size: int
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dims, patch_size, patch_size)

    def reset_parameters(self) -> None:
        """LeCun normal, as Vim starts its patch embedding."""
        # a normal truncated at two deviations has 0.8796 of its deviation
        std = self.proj.weight[0].numel() ** -0.5 / 0.87962566
        nn.init.trunc_normal_(self.proj.weight, 0.0, std, -2 * std, 2 * std)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Embed patches in row-major order: (B, 3, H, W) to (B, N, C)."""
        return self.proj(x).flatten(2).transpose(1, 2)


class BiMambaMixer(nn.Module):
    """Bidirectional Mamba mixer of Vim ("v2").

    One input projection; per direction its own convolution, ``x_proj``,
    ``dt_proj``, ``A_log`` and ``D``; one gate and one output projection.

    Args:
        embed_dims: Token channels C.
        d_state: States of each inner channel S.
        expand: Inner channels over token channels.
        d_conv: Taps of the depthwise convolution.
        scan_backend: See :func:`mmscope.ops.bidirectional_scan`; the
            convolution runs in the kernels that come with it.
    """

    def __init__(
        self,
        embed_dims: int,
        d_state: int = 16,
        expand: int = 2,
        d_conv: int = 4,
        scan_backend: str = 'auto',
    ) -> None:
        super().__init__()
        inner = expand * embed_dims
        rank = math.ceil(embed_dims / 16)
        self.d_state, self.dt_rank = d_state, rank
        self.backend = None if scan_backend == 'auto' else scan_backend
        self.kept_weights = WeightCache()
        self.in_proj = nn.Linear(embed_dims, 2 * inner, bias=False)
        self.out_proj = nn.Linear(inner, embed_dims, bias=False)
        for suffix in ('', '_b'):
            self.add_module(
                f'conv1d{suffix}',
                nn.Conv1d(inner, inner, d_conv, groups=inner),
            )
            self.add_module(
                f'x_proj{suffix}',
                nn.Linear(inner, rank + 2 * d_state, bias=False),
            )
            self.add_module(f'dt_proj{suffix}', nn.Linear(rank, inner))
        self.A_log = nn.Parameter(torch.empty(inner, d_state))
        self.A_b_log = nn.Parameter(torch.empty(inner, d_state))
        self.D = nn.Parameter(torch.empty(inner))
        self.D_b = nn.Parameter(torch.empty(inner))

    def reset_parameters(self, depth: int) -> None:
        """Draw Vim's initial weights.

        softplus of the dt bias is log-uniform in [1e-3, 0.1], A is
        -1 .. -S, D is 1, and ``out_proj`` is scaled by 1 / sqrt(depth).

        Args:
            depth: Number of layers of the encoder.
        """
        for layer in (self.in_proj, self.out_proj, self.conv1d, self.conv1d_b):
            layer.reset_parameters()
        with torch.no_grad():
            self.out_proj.weight /= math.sqrt(depth)
        for x_proj in (self.x_proj, self.x_proj_b):
            x_proj.reset_parameters()
        for dt_proj in (self.dt_proj, self.dt_proj_b):
            _reset_dt_proj(dt_proj)
        # mmengine initialises a model after it was moved to its device
        steps = torch.arange(1.0, self.d_state + 1, device=self.A_log.device)
        with torch.no_grad():
            for a_log in (self.A_log, self.A_b_log):
                a_log.copy_(steps.log().expand_as(a_log))
        for skip in (self.D, self.D_b):
            nn.init.ones_(skip)

    def forward(
        self, x: Tensor, score: ScoreMetric | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Mix tokens along the sequence.

        Args:
            x: Normed tokens, (B, L, C).
            score: How to score the tokens, or None not to.

        Returns:
            Mixed tokens (B, L, C), and their importance (B, L) in float32 or
            None.
        """
        x, gate = self.in_proj(x).chunk(2, dim=-1)
        weights = self.kept_weights.weights(self)
        backend = self.backend
        u = bidirectional_conv(x, weights.conv, weights.conv_bias, backend)
        delta, B, C = self._project(u, weights)
        importance = None
        fused = score is not None and score.fused
        merge = score is None or fused
        y = bidirectional_scan(
            u,
            delta,
            weights.A,
            B,
            C,
            weights.D,
            z=gate if merge else None,
            delta_bias=weights.dt_bias,
            importance=fused,
            merge=merge,
            backend=backend,
        )
        if fused:
            y, importance = y
        elif score is not None:
            importance = importance_score(y.detach(), *score)
            y = y.mean(dim=0) * F.silu(gate)
        return self.out_proj(y), importance

    def train(self, mode: bool = True) -> 'BiMambaMixer':
        """Set the mode and forget what was kept for inference."""
        self.kept_weights.clear()
        return super().train(mode)

    def _project(
        self, u: Tensor, weights: MixerWeights
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the input-dependent parameters of the scan.

        Args:
            u: (2, B, L, D).
            weights: Of both directions.

        Returns:
            delta (2, B, L, D) without its bias, B and C (2, B, L, S).
        """
        projected = torch.bmm(u.flatten(1, 2), weights.x_proj)
        delta, B, C = projected.split(
            [self.dt_rank, self.d_state, self.d_state], dim=-1
        )
        delta = torch.bmm(delta, weights.dt_proj)
        return tuple(out.unflatten(1, u.shape[1:3]) for out in (delta, B, C))


def _reset_dt_proj(
    dt_proj: nn.Linear, low: float = 1e-3, high: float = 0.1
) -> None:
    """Start dt's projection so that softplus(bias) is in [low, high]."""
    nn.init.uniform_(
        dt_proj.weight,
        -(dt_proj.in_features**-0.5),
        dt_proj.in_features**-0.5,
    )
    with torch.no_grad():
        dt = torch.empty_like(at_least_float32(dt_proj.bias))
        dt.uniform_(math.log(low), math.log(high)).exp_()
        # the inverse of softplus
        dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))


class VimBlock(nn.Module):
    """Pre-norm residual block: x + DropPath(mixer(norm(x))).

    Args:
        embed_dims: Token channels C.
        drop_path: Rate of stochastic depth.
        d_state: See :class:`BiMambaMixer`, as are the following.
        expand: See above.
        d_conv: See above.
        scan_backend: See above.
    """

    def __init__(
        self,
        embed_dims: int,
        drop_path: float = 0.0,
        d_state: int = 16,
        expand: int = 2,
        d_conv: int = 4,
        scan_backend: str = 'auto',
    ) -> None:
        super().__init__()
        self.norm = RMSNorm(embed_dims, scan_backend)
        self.mixer = BiMambaMixer(
            embed_dims, d_state, expand, d_conv, scan_backend
        )
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Tensor, score: ScoreMetric | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Run the block.

        Args:
            x: Residual stream in float32, (B, L, C).
            score: How to score the tokens, or None not to.

        Returns:
            The residual stream (B, L, C), and the importance (B, L) or None.
        """
        mixed, importance = self.mixer(self.norm(x), score)
        return x + self.drop_path(mixed).to(x.dtype), importance

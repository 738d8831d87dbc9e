"""Blocks of Vision Mamba."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mmscope.functional import importance_score
from mmscope.functional.checks import check_choice
from mmscope.functional.importance import DIRECTIONS, METRICS
from mmscope.functional.pruning import Gaps, add_rows, bridge_gaps
from mmscope.ops import (
    add_rms_norm,
    bidirectional_conv,
    bidirectional_scan,
    rms_norm,
)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Cast half precision to float32 and leave wider types alone."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class RMSNorm(nn.RMSNorm):
    """RMSNorm of the float32 residual stream, in the weights' precision.

    Args:
        embed_dims: Token channels C.
        scan_backend: Backend of the scan: the norm runs in the kernels that
            come with it.
    """

    def __init__(self, embed_dims: int, scan_backend: str = 'auto') -> None:
        super().__init__(embed_dims, eps=1e-5)
        self.backend = None if scan_backend == 'auto' else scan_backend

    def forward(self, x: Tensor) -> Tensor:
        """Normalise along the last axis, (..., C)."""
        return rms_norm(x, self.weight, self.eps, self.backend)


class AddNorm(RMSNorm):
    """RMSNorm of the residual stream and what the block before adds to it."""

    def forward(
        self, x: Tensor, update: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the normalised sum and the sum, (..., C) both."""
        return add_rms_norm(x, update, self.weight, self.eps, self.backend)


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


class BiMambaMixer(nn.Module):
    """Bidirectional Mamba mixer of Vim ("v2").

    One input projection; per direction its own convolution, projections of
    the scan's inputs, states and skip; one gate and one output projection.
    Parameters of both directions are stacked, the scan from the first token
    at 0 and that from the last token at 1:

    - ``conv_weight`` (2, D, K) and ``conv_bias`` (2, D)
    - ``x_proj`` (2, R + 2S, D)
    - ``dt_proj`` (2, D, R) and ``dt_bias`` (2, D)
    - ``A_log`` (2, D, S) and ``D`` (2, D)

    Args:
        embed_dims: Token channels C.
        d_state: States of each inner channel S.
        expand: Inner channels D over token channels.
        d_conv: Taps of the depthwise convolution K.
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
        self.in_proj = nn.Linear(embed_dims, 2 * inner, bias=False)
        self.out_proj = nn.Linear(inner, embed_dims, bias=False)
        shapes = dict(
            conv_weight=(inner, d_conv),
            conv_bias=(inner,),
            x_proj=(rank + 2 * d_state, inner),
            dt_proj=(inner, rank),
            dt_bias=(inner,),
            A_log=(inner, d_state),
            D=(inner,),
        )
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(2, *shape)))

    def reset_parameters(self, depth: int) -> None:
        """Draw Vim's initial weights.

        softplus of ``dt_bias`` is log-uniform in [1e-3, 0.1], A is -1 .. -S,
        D is 1, and ``out_proj`` is scaled by 1 / sqrt(depth).

        Args:
            depth: Number of layers of the encoder.
        """
        for layer in (self.in_proj, self.out_proj):
            layer.reset_parameters()
        taps, inner = self.conv_weight.shape[-1], self.D.shape[-1]
        for parameter, fan_in in (
            (self.conv_weight, taps),
            (self.conv_bias, taps),
            (self.x_proj, inner),
            (self.dt_proj, self.dt_rank),
        ):
            bound = fan_in**-0.5
            nn.init.uniform_(parameter, -bound, bound)
        nn.init.ones_(self.D)
        with torch.no_grad():
            self.out_proj.weight /= math.sqrt(depth)
            self.dt_bias.copy_(_initial_dt_bias(self.dt_bias))
            # mmengine initialises a model after it was moved to its device
            steps = torch.arange(1.0, self.d_state + 1, device=self.D.device)
            self.A_log.copy_(steps.log().expand_as(self.A_log))

    def forward(
        self,
        x: Tensor,
        score: ScoreMetric | None = None,
        gaps: Gaps | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Mix tokens along the sequence.

        Args:
            x: Normed tokens, (B, L, C).
            score: How to score the tokens, or None not to.
            gaps: Where tokens are missing, which states decay over, or None.

        Returns:
            Mixed tokens (B, L, C), and their importance (B, L) in float32 or
            None.
        """
        return self.mix_projected(self.in_proj(x), score, gaps)

    def mix_projected(
        self,
        projected: Tensor,
        score: ScoreMetric | None = None,
        gaps: Gaps | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """What follows the first projection, see :meth:`forward`.

        Args:
            projected: Input and gate of the scan, (B, L, 2 * D).
            score: How to score the tokens, or None not to.
            gaps: Missing tokens, or None.
        """
        x, gate = projected.chunk(2, dim=-1)
        backend = self.backend
        u = bidirectional_conv(x, self.conv_weight, self.conv_bias, backend)
        delta, B, C = self.scan_inputs(u)
        less = None
        if gaps is not None:
            delta, u, less = bridge_gaps(delta, u, gaps, self.dt_bias)
        fused = score is not None and score.fused and gaps is None
        merge = fused or score is None
        y = bidirectional_scan(
            u,
            delta,
            at_least_float32(self.A_log).exp().neg(),
            B,
            C,
            self.D,
            z=gate if merge else None,
            delta_bias=self.dt_bias,
            importance=fused,
            merge=merge,
            backend=backend,
        )
        y, importance = y if fused else (y, None)
        if less is not None:
            y = self._restore_skip(y, less, gaps.rows, gate if merge else None)
        if not merge:
            importance = importance_score(y.detach(), *score)
            y = (y.mean(dim=0) * F.silu(gate)).to(gate.dtype)
        return self.out_proj(y), importance

    def _restore_skip(
        self, y: Tensor, less: Tensor, rows: Tensor, gate: Tensor | None
    ) -> Tensor:
        """Give the skip what inputs lost for gaps that the scan bridged.

        Args:
            y: Output (B, L, D) where it is gated, of both directions
                (2, B, L, D) where it is not.
            less: What the inputs lost, (2, G / 2, D).
            rows: Where, places in all of (2, B, L), (G,).
            gate: Gate of the output (B, L, D), or None.
        """
        skipped = at_least_float32(self.D).unsqueeze(1) * less
        skipped = skipped.flatten(0, 1)
        if gate is not None:
            # both directions are one there
            rows = rows % y[..., 0].numel()
            opening = gate.flatten(0, 1).index_select(0, rows)
            skipped = skipped * F.silu(at_least_float32(opening)) / 2
        return add_rows(y, rows, skipped)

    def scan_inputs(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the input-dependent parameters of the scan.

        Args:
            u: (2, B, L, D).

        Returns:
            delta (2, B, L, D) without its bias, B and C (2, B, L, S).
        """
        projected = torch.bmm(u.flatten(1, 2), self.x_proj.mT)
        delta, B, C = projected.split(
            [self.dt_rank, self.d_state, self.d_state], dim=-1
        )
        delta = torch.bmm(delta, self.dt_proj.mT)
        return tuple(out.unflatten(1, u.shape[1:3]) for out in (delta, B, C))


def _initial_dt_bias(
    like: Tensor, low: float = 1e-3, high: float = 0.1
) -> Tensor:
    """Draw dt's bias so that its softplus is log-uniform in [low, high].

    In float32 or wider, on the device of ``like`` and in its shape.
    """
    dt = torch.empty_like(at_least_float32(like))
    dt.uniform_(math.log(low), math.log(high)).exp_()
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus


class VimBlock(nn.Module):
    """Pre-norm residual block: x + DropPath(mixer(norm(x))).

    What it adds is left to the norm of the next block, as in Vim.

    Args:
        embed_dims: Token channels C.
        drop_path: Rate of stochastic depth.
        d_state: States of each inner channel.
        expand: Inner channels over token channels.
        d_conv: Taps of the depthwise convolution.
        scan_backend: Backend of scan, convolution and norm.
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
        self.norm = AddNorm(embed_dims, scan_backend)
        self.mixer = BiMambaMixer(
            embed_dims, d_state, expand, d_conv, scan_backend
        )
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Tensor,
        update: Tensor | None = None,
        score: ScoreMetric | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run the block.

        Args:
            x: Residual stream in float32, (B, L, C).
            update: What the block before adds to it, (B, L, C), or None.
            score: How to score the tokens, or None not to.

        Returns:
            The residual stream and what this block adds to it, (B, L, C)
            both, and the importance (B, L) or None.
        """
        x, mixed, importance = self.mix(x, update, score)
        return x, self.drop_path(mixed), importance

    def mix(
        self,
        x: Tensor,
        update: Tensor | None = None,
        score: ScoreMetric | None = None,
        gaps: Gaps | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run the block, without stochastic depth.

        Args:
            x: Residual stream in float32, (B, L, C).
            update: What the block before adds to it, (B, L, C), or None.
            score: How to score the tokens, or None not to.
            gaps: Missing tokens, see :meth:`BiMambaMixer.forward`.

        Returns:
            The residual stream and the mixer's output, (B, L, C) both, and
            the importance (B, L) or None.
        """
        normed, x = self.norm(x, update)
        mixed, importance = self.mixer(normed, score, gaps)
        return x, mixed, importance

"""Dynamic tokens and directions for Vision Mamba."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from torch import Tensor, nn

from mmscope.functional import insert_cls, take_tokens
from mmscope.functional.routing import select_tokens
from mmscope.registry import MODELS

from ..layers import ScoreMetric, VimBlock
from .arranged import Arranged, arrange_first, arranged_order
from .base import Reduced, TokenReduction, collect
from .directions import gumbel_sigmoid, mix_by_direction, mix_masked

GATE_BIAS = 5.0


class DynamicRecord(NamedTuple):
    """What a pass in training decided.

    Attributes:
        kept: Share of the cells that are kept after each pruning, (P, B).
        gates: Which directions ran in each block, 0 or 1, (M, B, 2).
        cells: What all cells had behind the last block, (B, N, C).
        policy: 1 for cells that are kept to the end, (B, N).
    """

    kept: Tensor
    gates: Tensor
    cells: Tensor
    policy: Tensor


class TokenPredictor(nn.Module):
    """Log-probabilities that tokens are kept or dropped.

    Args:
        embed_dims: Token channels C.
    """

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        half, quarter = embed_dims // 2, embed_dims // 4
        self.half = half
        self.inner = nn.Sequential(
            nn.LayerNorm(embed_dims),
            nn.Linear(embed_dims, embed_dims),
            nn.GELU(),
        )
        self.outer = nn.Sequential(
            nn.Linear(embed_dims, half),
            nn.GELU(),
            nn.Linear(half, quarter),
            nn.GELU(),
            nn.Linear(quarter, 2),
        )

    def forward(self, x: Tensor, policy: Tensor) -> Tensor:
        """Judge tokens, each beside the mean of those that are kept.

        Args:
            x: Tokens without CLS, (B, N, C).
            policy: 1 for those that are kept, (B, N).

        Returns:
            Log-probabilities (B, N, 2), of keeping first.
        """
        u = self.inner(x)
        policy = policy.unsqueeze(-1)
        whole = (u[..., self.half :] * policy).sum(1, keepdim=True)
        whole = whole / (policy.sum(1, keepdim=True) + 1)
        both = [u[..., : self.half], whole.expand(-1, x.shape[1], -1)]
        return self.outer(torch.cat(both, dim=-1)).log_softmax(dim=-1)


@MODELS.register_module()
class DynamicTokens(TokenReduction):
    """Learns which tokens to drop, and which directions an image needs.

    DyVM (arXiv 2504.04787). Ahead of some blocks a small network says which
    tokens are kept; in every block a layer on CLS says for each direction of
    the scan whether an image runs it. In training tokens are masked behind
    those that are kept, so that a scan sees what it sees in inference.

    Args:
        embed_dims: Token channels C; the backbone sets it.
        num_layers: Number of blocks; the backbone sets it.
        keep_ratio: Share of tokens that is kept at a time, in (0, 1): of
            the whole image this, its square, and so on.
        blocks: Blocks, counted from 0, that tokens are dropped ahead of; none
            to keep them all.
        direction_ratio: Share of directions that should run, in (0, 1].
        token_weight: Weight of the loss that keeps to ``keep_ratio``.
        direction_weight: Weight of that which keeps to ``direction_ratio``.
        init_cfg: mmengine's.

    Raises:
        ValueError: a share is out of range.
    """

    learns = True

    def __init__(
        self,
        embed_dims: int,
        num_layers: int,
        keep_ratio: float = 0.7,
        blocks: Sequence[int] = (6, 12, 18),
        direction_ratio: float = 0.8,
        token_weight: float = 10.0,
        direction_weight: float = 10.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not 0 < keep_ratio < 1:
            raise ValueError(
                f'keep_ratio must be in (0, 1), got {keep_ratio}; to keep all '
                'tokens set blocks=()'
            )
        if not 0 < direction_ratio <= 1:
            raise ValueError(
                f'direction_ratio must be in (0, 1], got {direction_ratio}'
            )
        self.keep_ratio, self.direction_ratio = keep_ratio, direction_ratio
        self.token_weight = token_weight
        self.direction_weight = direction_weight
        self.blocks = tuple(sorted(set(blocks)))
        self.predictors = nn.ModuleList(
            TokenPredictor(embed_dims) for _ in self.blocks
        )
        self.gates = nn.ModuleList(
            nn.Linear(4 * embed_dims, 2) for _ in range(num_layers)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Let every direction run at first."""
        for gate in self.gates:
            nn.init.zeros_(gate.weight)
            nn.init.constant_(gate.bias, GATE_BIAS)

    def asks_score(self, index: int) -> bool:
        """No block: predictors decide."""
        return False

    def before_block(self, index: int, tokens: Reduced) -> Reduced:
        """Drop tokens, see :meth:`TokenReduction.before_block`."""
        if index not in self.blocks:
            return tokens
        step = self.blocks.index(index)
        total = tokens.slots.shape[1]
        num = max(1, int(self.keep_ratio ** (step + 1) * total))
        others, _ = tokens.split(tokens.stream)
        policy = others.new_ones(others.shape[:2])
        scores = self.predictors[step](others, policy)[..., 0]
        kept, _ = select_tokens(scores, num, tokens.valid)
        return tokens.keep(kept)

    def mix(
        self,
        index: int,
        layer: VimBlock,
        tokens: Reduced,
        score: ScoreMetric | None,
    ) -> tuple[Tensor, Tensor, None]:
        """Run a block in the directions that each image needs."""
        if tokens.x.is_meta:  # costs are counted with all of them
            return super().mix(index, layer, tokens, score)
        normed, x = layer.norm(tokens.x, tokens.update)
        projected = layer.mixer.in_proj(normed)
        cls = projected[:, tokens.cls]
        runs = self.gates[index](cls) > 0
        if runs.all():
            return x, layer.mixer.mix_projected(projected)[0], None
        return x, mix_by_direction(layer.mixer, projected, runs), None

    def run(
        self,
        layers: Sequence[VimBlock],
        x: Tensor,
        valid: Tensor | None,
        out_indices: Sequence[int],
    ) -> list[Tensor]:
        """Run blocks; in training with masks, see the class."""
        if not self.training:
            return super().run(layers, x, valid, out_indices)
        total = x.shape[1] - 1
        tokens, policy = arrange_first(x), x.new_ones(len(x), total)
        kept, gates, levels = [], [], []
        for index, layer in enumerate(layers):
            if index in self.blocks:
                tokens, policy = self._drop(index, tokens, policy, valid)
                kept.append(policy.mean(dim=1))
            tokens, runs = self._mix_masked(index, layer, tokens)
            gates.append(runs)
            if index in out_indices:
                cells = tokens.in_place()
                levels.append(insert_cls(cells[:, :total], cells[:, total:]))
        record = DynamicRecord(
            torch.stack(kept) if kept else x.new_zeros(0, len(x)),
            torch.stack(gates),
            tokens.in_place()[:, :total],
            policy,
        )
        if not collect(record):
            # the logger shows a warning once
            MMLogger.get_current_instance().warning(
                'DynamicTokens learns from losses that this model does not '
                "add: use type='mmscope.DistilledClassifier' or "
                "'mmscope.ReducedSegmentor'"
            )
        return levels

    def _drop(
        self,
        index: int,
        tokens: Arranged,
        policy: Tensor,
        valid: Tensor | None,
    ) -> tuple[Arranged, Tensor]:
        """Decide by chance which tokens go on, and put them first."""
        cells = tokens.in_place()
        others = cells[:, :-1]
        predictor = self.predictors[self.blocks.index(index)]
        logits = predictor(others, policy)
        chosen = F.gumbel_softmax(logits, hard=True)[..., 0]
        if valid is not None:
            chosen = chosen * valid
        policy = policy * chosen
        order = arranged_order(policy.detach() > 0.5)
        mask = torch.cat([policy, torch.ones_like(policy[:, :1])], dim=1)
        return (
            Arranged(
                take_tokens(cells, order), None, order, mask.gather(1, order)
            ),
            policy,
        )

    def _mix_masked(
        self, index: int, layer: VimBlock, tokens: Arranged
    ) -> tuple[Arranged, Tensor]:
        """Run a block in training: dropped tokens are zero and stay so."""
        normed, x = layer.norm(tokens.x, tokens.update)
        projected = layer.mixer.in_proj(normed)
        logits = self.gates[index](tokens.cls(projected).squeeze(1))
        runs = gumbel_sigmoid(logits)
        mixed = mix_masked(layer.mixer, projected, tokens.mask, runs)
        return tokens._replace(x=x, update=layer.drop_path(mixed)), runs

    def loss(self, record: DynamicRecord) -> dict[str, Tensor]:
        """How far tokens and directions are from their shares.

        Args:
            record: Of a pass in training.
        """
        wanted = torch.tensor(
            [self.keep_ratio ** (n + 1) for n in range(len(record.kept))],
            device=record.gates.device,
        )
        losses = dict(
            loss_directions=self.direction_weight
            * (record.gates.mean() - self.direction_ratio).square()
        )
        if len(wanted):
            off = (record.kept - wanted.unsqueeze(1)).square()
            losses['loss_tokens'] = self.token_weight * off.mean()
        return losses

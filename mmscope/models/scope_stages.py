"""Both encodings of MambaScope: the half-size image, the important cells."""

import torch
from torch import Tensor, nn

from mmscope.functional import (
    FineLayout,
    build_fine_sequence,
    coarse_to_fine_index,
    fine_layout,
    fine_places,
    insert_cls,
    run_means,
    select_tokens,
    split_cls,
    take_tokens,
    tokens_to_map,
)

from .cell_scores import CellScore
from .encoder import Encoded
from .exit_head import ExitHead
from .layers import ScoreMetric
from .reuse import FeatureReuse
from .stages import CoarseStage, FineStage


class ScopeStages:
    """Mixin of a :class:`VimEncoder` that runs it over both sequences.

    Attributes:
        beta: Smoothing of importance over layers.
        score_metric: Score of a token in one layer.
        score_layers: Blocks that score tokens.
        reuse: Network that hands coarse features on, or None.
        reuse_cls: Whether the class token is handed on, too.
        unselected: Tokens of the cells that are not refined: 'embedding',
            'feature', or 'drop' for none.
        num_context: Number of tokens that stand for dropped ones.
        cls_position: Place of the class token among the refined ones.
        token_order: Order of refined tokens and the others.
        exit_head: Head on the class token, or None.
        out_type: 'featmap', or 'cls_token' for a model without maps.
        cell_score: Score of the coarse cells.
        coarse_cls_pos_embed: Position embedding of the class token in the
            coarse stage, or None where it has the fine one's.
        coarse_pos_embed: Position embeddings of the coarse grid, or None
            where they are resampled from the fine ones.
    """

    beta: float
    score_metric: ScoreMetric
    score_layers: tuple[int, ...]
    reuse: FeatureReuse | None
    reuse_cls: bool
    unselected: str
    num_context: int
    cls_position: str
    token_order: str
    exit_head: ExitHead | None
    out_type: str
    cell_score: CellScore
    coarse_cls_pos_embed: nn.Parameter | None
    coarse_pos_embed: nn.Parameter | None

    def _encode_coarse(self, x: Tensor) -> CoarseStage:
        """Encode the half-size image (Eq. 5).

        Args:
            x: Images, padded, (B, 3, H, W).
        """
        # bilinear halving without aligned corners is the exact 2x2 mean; on
        # CPU two sums are ten times faster than avg_pool2d
        x = x[..., ::2, :] + x[..., 1::2, :]
        x = (x[..., ::2] + x[..., 1::2]) / 4
        grid = tuple(side // self.patch_size for side in x.shape[2:])
        cls_pos_embed, pos_embed = self._coarse_pos_embeds(grid)
        tokens = self.patch_embed(x) + pos_embed
        cls = (self.cls_token + cls_pos_embed).expand(x.shape[0], -1, -1)
        out = self.encode(
            insert_cls(tokens, cls),
            self.score_metric,
            self.score_layers,
            self.beta,
        )
        features = last_cls = None
        if self.norm_f is not None:
            features, last_cls = split_cls(self.norm_f(out.last))
        maps = tuple(
            tokens_to_map(split_cls(level)[0], grid)
            for level in self._map_levels(out)
        )
        importance, _ = split_cls(out.importance)
        return CoarseStage(tokens, features, last_cls, maps, importance)

    def _encode_fine(
        self,
        x: Tensor,
        coarse: CoarseStage,
        scores: Tensor,
        num: int,
        valid: Tensor | None = None,
    ) -> FineStage:
        """Refine the best cells (Eq. 13-19, Algorithms 1 and 2).

        Args:
            x: Images, padded, (B, 3, H, W).
            coarse: Coarse stage of these images.
            scores: Scores of their cells, (B, N_c).
            num: Number of cells to refine.
            valid: Coarse cells that show some of an image, (B, N_c), or None
                for all.
        """
        grid = tuple(side // self.patch_size for side in x.shape[2:])
        selected, unselected = select_tokens(scores, num, valid)
        sequence, layout = self._fine_sequence(
            x, coarse, selected, unselected, grid
        )
        out = self.encode(sequence)
        cells, cls_place = fine_places(layout)
        levels = self._map_levels(out)
        if self.unselected == 'drop':
            # the other cells keep what the coarse pass made of them
            levels = [
                torch.cat([level, take_tokens(m.flatten(2).mT, unselected)], 1)
                for level, m in zip(levels, coarse.maps, strict=True)
            ]
        maps = tuple(
            tokens_to_map(take_tokens(level, cells), grid) for level in levels
        )
        cls = logits = None
        if self.exit_head is not None or self.out_type == 'cls_token':
            cls = self.norm_f(take_tokens(out.last, cls_place).squeeze(1))
        if self.exit_head is not None:
            logits = self.exit_head(cls)
        return FineStage(maps, cls, logits, selected)

    def _map_levels(self, out: Encoded) -> list[Tensor]:
        """Normalised sequences that maps are made of, (B, L, C) each.

        A model that answers by class tokens has maps only to train a score.
        """
        if self.out_type == 'featmap':
            return self.normed_levels(out)
        if self.training and self.cell_score.reads_maps:
            return [self.norm_f(out.last)]
        return []

    def _fine_sequence(
        self,
        x: Tensor,
        coarse: CoarseStage,
        selected: Tensor,
        unselected: Tensor,
        grid: tuple[int, int],
    ) -> tuple[Tensor, FineLayout]:
        """Embed and arrange the tokens of the fine stage (Eq. 14, 18-19)."""
        coarse_width = grid[1] // 2
        fine_index, raster = coarse_to_fine_index(selected, coarse_width).sort(
            dim=1
        )
        pos_embed = self.pos_embed_at('pos_embed', grid)
        places = pos_embed.expand(x.shape[0], -1, -1)
        fine = self.patch_embed(x, fine_index)
        fine = fine + take_tokens(places, fine_index)
        cls = (self.cls_token + self.cls_pos_embed).expand(x.shape[0], -1, -1)
        if self.reuse is not None:
            reused = self.reuse(take_tokens(coarse.features, selected))
            reused = reused.repeat_interleave(4, dim=1)
            fine = fine + take_tokens(reused, raster)
            if self.reuse_cls:
                cls = cls + self.reuse(coarse.cls.unsqueeze(1))
        source = (
            coarse.features if self.unselected == 'feature' else coarse.tokens
        )
        others = take_tokens(source, unselected)
        num_context = None
        if self.unselected == 'drop':
            num_context = min(self.num_context, unselected.shape[1])
            others = run_means(others, num_context)
        layout = fine_layout(
            fine_index,
            unselected,
            coarse_width,
            self.cls_position,
            self.token_order,
            num_context,
        )
        return build_fine_sequence(fine, others, cls, layout), layout

    def _coarse_pos_embeds(
        self, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Position embeddings of CLS and of the coarse grid."""
        if self.coarse_pos_embed is None:
            return self.cls_pos_embed, self.pos_embed_at('pos_embed', grid)
        resized = self.pos_embed_at('coarse_pos_embed', grid)
        return self.coarse_cls_pos_embed, resized

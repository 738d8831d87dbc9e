"""Vision Mamba's encoder, which both backbones share."""

# torch 2.8 exports no function that has A | B in its annotations inside
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmengine.model import PretrainedInit
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmscope.functional import (
    accumulate_importance,
    insert_evenly,
)
from mmscope.functional.checks import check_choice
from mmscope.functional.rotary import rotate
from mmscope.ops import scan_backends
from mmscope.utils.pretrained import load_from_config

from .arch import resolve_arch
from .block_graphs import BlockGraphs
from .embeddings import EMBEDDED, Embeddings
from .layer_depth import LayerDepth
from .layers import (
    RMSNorm,
    ScoreMetric,
    VimBlock,
    at_least_float32,
)

Tables = tuple[Tensor, Tensor]
PRETRAINED = ('Pretrained', PretrainedInit)


class Encoded(NamedTuple):
    """What the encoder made of a sequence.

    Attributes:
        levels: Residual stream after each of ``out_indices``, (B, L, C) each.
        last: Residual stream after the last block, (B, L, C).
        importance: Moving average of the token scores (B, L), or None.
    """

    levels: tuple[Tensor, ...]
    last: Tensor
    importance: Tensor | None


class VimEncoder(LayerDepth, Embeddings):
    """Patch embedding, position embeddings and a stack of Vim's blocks.

    The state dict has Vim's names but for two: the row of CLS is stored
    beside ``pos_embed``, as ``cls_pos_embed``, and mixers stack the
    parameters of both directions, see :class:`BiMambaMixer`.

    Args:
        arch: 'tiny', 'small', 'base' or a dict, see :func:`resolve_arch`.
        img_size: Image size that ``pos_embed`` is stored for; other sizes are
            resampled at run time.
        patch_size: Side of a patch P in pixels.
        in_channels: Image channels.
        out_indices: Blocks whose output is returned.
        level_norms: Whether each of these has an RMSNorm of its own.
        final_norm: Whether there is ``norm_f``.
        drop_path_rate: Stochastic depth of the last block; linear from 0.
        scan_backend: Backend of :func:`mmscope.ops.bidirectional_scan`.
        size_divisor: Multiple that image sides are padded to.
        with_cp: Recompute blocks in the backward pass to save memory.
        frozen_stages: -1 freezes nothing, 0 the embeddings, n the first n
            blocks as well.
        init_cfg: mmengine's; of type 'Pretrained' it takes checkpoints of
            ours and of the official Vim, by file or address, and
            ``weights='ema'`` for averaged ones.
        num_registers: Number of learned tokens without a place in the image,
            spread evenly through every sequence and left out of what is
            returned ("Mamba-R", arXiv 2405.14858).
        cuda_graphs: Whether blocks are replayed as CUDA graphs in inference,
            see :class:`BlockGraphs`.
        patch_stride: Pixels from one patch to the next; by default P.
        with_cls: Whether there is a class token.
        pos_embed_fit: 'resample' or 'extend', see :func:`resize_pos_embed`.

    Raises:
        ValueError: an argument is none of its choices or out of its range.
    """

    def __init__(
        self,
        arch: str | dict,
        img_size: int | tuple[int, int],
        patch_size: int,
        in_channels: int,
        out_indices: Sequence[int],
        level_norms: bool,
        final_norm: bool,
        drop_path_rate: float,
        scan_backend: str,
        size_divisor: int,
        with_cp: bool,
        frozen_stages: int,
        init_cfg: dict | list[dict] | None,
        num_registers: int = 0,
        cuda_graphs: bool = False,
        patch_stride: int | None = None,
        with_cls: bool = True,
        pos_embed_fit: str = 'resample',
    ) -> None:
        arch = resolve_arch(arch)
        dims, num_layers = arch.pop('embed_dims'), arch.pop('num_layers')
        super().__init__(
            img_size,
            patch_size,
            in_channels,
            dims,
            size_divisor,
            init_cfg,
            patch_stride,
            with_cls,
            pos_embed_fit,
        )
        self.num_layers = num_layers
        self.out_indices = self._check_out_indices(out_indices)
        backends = ['auto', *sorted(scan_backends())]
        check_choice('scan_backend', scan_backend, backends)
        self.with_cp = with_cp
        self.block_graphs = BlockGraphs() if cuda_graphs else None
        self.frozen_stages = frozen_stages

        rates = np.linspace(0, drop_path_rate, self.num_layers).tolist()
        self.layers = nn.ModuleList(
            VimBlock(dims, rate, scan_backend=scan_backend, **arch)
            for rate in rates
        )
        self.norm_f = RMSNorm(dims, scan_backend) if final_norm else None
        self.level_norms = nn.ModuleList(
            RMSNorm(dims, scan_backend)
            for _ in self.out_indices
            if level_norms
        )
        self.registers = None
        if num_registers < 0:
            raise ValueError(
                f'num_registers must not be negative, got {num_registers}'
            )
        if num_registers:
            self.registers = nn.Parameter(torch.zeros(1, num_registers, dims))
        self.reset_parameters()

    def _check_out_indices(self, out_indices: Sequence[int]) -> tuple:
        out_indices = tuple(out_indices)
        allowed = all(0 <= i < self.num_layers for i in out_indices)
        if (
            not out_indices
            or not allowed
            or list(out_indices) != sorted(set(out_indices))
        ):
            raise ValueError(
                'out_indices must be ascending block numbers in '
                f'[0, {self.num_layers - 1}], got {out_indices}'
            )
        return out_indices

    def reset_parameters(self) -> None:
        """Draw Vim's initial weights."""
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, RMSNorm):
                module.reset_parameters()
        for layer in self.layers:
            layer.mixer.reset_parameters(depth=self.num_layers)

    def init_weights(self) -> None:
        """Draw Vim's initial weights, then load a pretrained checkpoint.

        Generic initialisers of ``init_cfg``, this module's or its parents',
        do not reach the encoder's own parameters.
        """
        if self.is_init:
            super().init_weights()  # says that it changes nothing
            return
        configs = self.init_cfg or []
        configs = [configs] if isinstance(configs, dict) else configs
        pretrained = [c for c in configs if c['type'] in PRETRAINED]
        self.init_cfg = [c for c in configs if c['type'] not in PRETRAINED]
        super().init_weights()
        self.init_cfg = configs
        self.reset_parameters()
        for config in pretrained:
            load_from_config(self, config)

    def freeze(self, last_used: int) -> None:
        """Stop gradients of frozen stages and of blocks that nothing reads.

        Args:
            last_used: The last block that any output depends on.
        """
        unused = list(self.layers[last_used + 1 :])
        frozen = list(self.layers[: max(self.frozen_stages, 0)])
        for module in unused + frozen:
            module.requires_grad_(False)
        if self.frozen_stages >= 0:
            self.patch_embed.requires_grad_(False)
            for name, parameter in self.named_parameters(recurse=False):
                if name.endswith(EMBEDDED):
                    parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> VimEncoder:
        """Set the mode; frozen blocks stay in evaluation mode."""
        super().train(mode)
        if mode and self.block_graphs is not None:
            self.block_graphs.clear()  # training needs the memory
        for layer in self.layers[: max(self.frozen_stages, 0)]:
            layer.eval()
        return self

    def encode(
        self,
        x: Tensor,
        score: ScoreMetric | None = None,
        score_layers: Sequence[int] = (),
        beta: float = 0.0,
        rotary: Tables | None = None,
    ) -> Encoded:
        """Run a sequence through the blocks.

        Args:
            x: Embedded tokens with CLS, (B, L, C).
            score: How to score tokens.
            score_layers: Blocks whose scores are averaged.
            beta: Smoothing factor of that average (Eq. 12).
            rotary: Tables by which tokens are rotated ahead of each block,
                (L, C) each, or None.
        """
        places = None
        if self.registers is not None:
            x, places = insert_evenly(x, self.registers)
        x = at_least_float32(x)
        score_layers = tuple(score_layers) if score else ()

        def run(x: Tensor) -> tuple[Tensor | None, ...]:
            return self._run_blocks(x, score, score_layers, beta, rotary)

        if self.block_graphs is None:
            out = run(x)
        else:
            settings = self.out_indices, score, score_layers, beta
            out = self.block_graphs(run, self.layers, x, settings)
        *levels, last, importance = out
        if places is not None:
            levels = [level[:, places] for level in levels]
            last = last[:, places]
            if importance is not None:
                importance = importance[:, places]
        return Encoded(tuple(levels), last, importance)

    def normed_levels(self, encoded: Encoded) -> list[Tensor]:
        """Each of ``out_indices`` through the norm of its own, (B, L, C)."""
        return [
            norm(level)
            for norm, level in zip(
                self.level_norms, encoded.levels, strict=True
            )
        ]

    def _run_blocks(
        self,
        x: Tensor,
        score: ScoreMetric | None,
        score_layers: tuple[int, ...],
        beta: float,
        rotary: Tables | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Outputs of ``out_indices`` and of the last block, and importance."""
        levels, importance, update = [], None, None
        for index, layer in enumerate(self.layers):
            metric = score if index in score_layers else None
            if rotary is not None:
                x = x if update is None else x + update.to(x.dtype)
                x, update = rotate(x, rotary), None
            if self.with_cp and x.requires_grad:
                x, update, layer_score = checkpoint(
                    layer, x, update, metric, use_reentrant=False
                )
            else:
                x, update, layer_score = layer(x, update, metric)
            if layer_score is not None:
                importance = accumulate_importance(
                    importance, layer_score, beta
                )
            if index in self.out_indices:
                x, update = x + update.to(x.dtype), None
                levels.append(x)
        last = x if update is None else x + update.to(x.dtype)
        return *levels, last, importance

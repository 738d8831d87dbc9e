"""Vision Mamba: the encoder that both backbones share, and the baseline."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmengine.model import PretrainedInit
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmscope.functional import (
    accumulate_importance,
    insert_cls,
    insert_evenly,
    split_cls,
    tokens_to_map,
)
from mmscope.functional.checks import check_choice
from mmscope.ops import scan_backends
from mmscope.registry import MODELS
from mmscope.utils.pretrained import load_pretrained

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
from .token_reduction import build_reduction
from .token_reduction.base import shown_cells

PRETRAINED = ('Pretrained', PretrainedInit)
OUT_TYPES = ('featmap', 'cls_token', 'raw')


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
    ) -> None:
        arch = resolve_arch(arch)
        dims, num_layers = arch.pop('embed_dims'), arch.pop('num_layers')
        super().__init__(
            img_size, patch_size, in_channels, dims, size_divisor, init_cfg
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
            load_pretrained(
                self,
                config['checkpoint'],
                config.get('prefix'),
                config.get('weights', 'model'),
            )

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

    def train(self, mode: bool = True) -> 'VimEncoder':
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
    ) -> Encoded:
        """Run a sequence through the blocks.

        Args:
            x: Embedded tokens with CLS, (B, L, C).
            score: How to score tokens.
            score_layers: Blocks whose scores are averaged.
            beta: Smoothing factor of that average (Eq. 12).
        """
        places = None
        if self.registers is not None:
            x, places = insert_evenly(x, self.registers)
        x = at_least_float32(x)
        score_layers = tuple(score_layers) if score else ()

        def run(x: Tensor) -> tuple[Tensor | None, ...]:
            return self._run_blocks(x, score, score_layers, beta)

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
    ) -> tuple[Tensor | None, ...]:
        """Outputs of ``out_indices`` and of the last block, and importance."""
        levels, importance, update = [], None, None
        for index, layer in enumerate(self.layers):
            metric = score if index in score_layers else None
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


@MODELS.register_module()
class VisionMambaBackbone(VimEncoder):
    """Vision Mamba (Vim) as a backbone for dense tasks and classification.

    Any image size: sides are zero-padded to multiples of ``patch_size`` and
    position embeddings resampled to the grid.

    Args:
        arch: 'tiny', 'small', 'base', or a dict with ``embed_dims`` and
            ``num_layers`` and optionally ``d_state``, ``expand``, ``d_conv``.
        img_size: Image size that position embeddings are stored for.
        patch_size: Side of a patch P in pixels.
        in_channels: Image channels.
        out_indices: Blocks whose output is returned.
        out_type: 'featmap' returns maps (B, C, H / P, W / P), each through an
            RMSNorm of its own; 'cls_token' the class token (B, C) and 'raw'
            the whole sequence (B, N + 1, C) with CLS at N // 2, both through
            Vim's final norm.
        drop_path_rate: Stochastic depth of the last block; linear from 0.
        scan_backend: 'auto' or a name of :func:`mmscope.ops.scan_backends`.
        init_cfg: mmengine's; of type 'Pretrained' it takes checkpoints of
            ours and of the official Vim, by file or address, and
            ``weights='ema'`` for averaged ones.
        with_cp: Recompute blocks in the backward pass to save memory.
        frozen_stages: -1 freezes nothing, 0 the embeddings, n the first n
            blocks as well.
        num_registers: Number of learned tokens spread through the sequence.
        cuda_graphs: Whether blocks are replayed as CUDA graphs in inference,
            for sizes that come again: on fast GPUs several times as fast.
        token_reduction: Config of a :class:`TokenReduction` that lets later
            blocks run on fewer tokens, or None.

    Raises:
        ValueError: an argument is none of its choices or out of its range,
            or tokens are reduced together with what needs all of them.

    Examples:
        >>> net = VisionMambaBackbone('tiny', out_indices=(11, 23))
        >>> [tuple(m.shape) for m in net(torch.rand(1, 3, 64, 96))]
        [(1, 192, 4, 6), (1, 192, 4, 6)]
    """

    def __init__(
        self,
        arch: str | dict = 'tiny',
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        out_indices: Sequence[int] = (5, 11, 17, 23),
        out_type: str = 'featmap',
        drop_path_rate: float = 0.0,
        scan_backend: str = 'auto',
        init_cfg: dict | list[dict] | None = None,
        with_cp: bool = False,
        frozen_stages: int = -1,
        num_registers: int = 0,
        cuda_graphs: bool = False,
        token_reduction: dict | None = None,
    ) -> None:
        check_choice('out_type', out_type, OUT_TYPES)
        if token_reduction is not None:
            given = dict(
                num_registers=num_registers,
                cuda_graphs=cuda_graphs,
                with_cp=with_cp,
            )
            given = {key: value for key, value in given.items() if value}
            if given:
                raise ValueError(
                    'token_reduction runs its own blocks, without registers, '
                    f'graphs or recomputation: leave out {given}'
                )
        super().__init__(
            arch=arch,
            img_size=img_size,
            patch_size=patch_size,
            in_channels=in_channels,
            out_indices=out_indices,
            level_norms=out_type == 'featmap',
            final_norm=out_type != 'featmap',
            drop_path_rate=drop_path_rate,
            scan_backend=scan_backend,
            size_divisor=patch_size,
            with_cp=with_cp,
            frozen_stages=frozen_stages,
            init_cfg=init_cfg,
            num_registers=num_registers,
            cuda_graphs=cuda_graphs,
        )
        self.out_type = out_type
        self.token_reduction = build_reduction(token_reduction)
        self.freeze(last_used=self.out_indices[-1])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Extract features.

        Args:
            x: Images, (B, 3, H, W).

        Returns:
            One tensor for each of ``out_indices``, shaped as ``out_type``
            says.

        Raises:
            ValueError: ``x`` is no batch of images, see
                :meth:`VimEncoder.check_images`.
        """
        self.check_images(x)
        x = self.pad(x)
        grid = tuple(side // self.patch_size for side in x.shape[2:])
        tokens = self.patch_embed(x) + self.pos_embed_at('pos_embed', grid)
        cls = (self.cls_token + self.cls_pos_embed).expand(x.shape[0], -1, -1)
        sequence = insert_cls(tokens, cls)
        if self.token_reduction is None:
            encoded = self.encode(sequence)
        else:
            encoded = self._encode_reduced(sequence, x)
        levels = encoded.levels
        if self.out_type == 'raw':
            return tuple(self.norm_f(level) for level in levels)
        if self.out_type == 'cls_token':
            return tuple(self.norm_f(split_cls(lvl)[1]) for lvl in levels)
        return tuple(
            tokens_to_map(split_cls(level)[0], grid)
            for level in self.normed_levels(encoded)
        )

    def _encode_reduced(self, sequence: Tensor, x: Tensor) -> Encoded:
        """Run the blocks over ever fewer tokens.

        Args:
            sequence: Embedded tokens with CLS, (B, N + 1, C).
            x: The images, padded, (B, 3, H, W).
        """
        shown = shown_cells(x, self.patch_size)
        levels = self.token_reduction.run(
            self.layers[: self.out_indices[-1] + 1],
            at_least_float32(sequence),
            shown,
            self.out_indices,
        )
        return Encoded(tuple(levels), levels[-1], None)

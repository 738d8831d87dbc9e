"""The Vision Mamba encoder that both backbones share."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from mmengine.utils import to_2tuple
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmscope.functional import accumulate_importance
from mmscope.ops import scan_backends
from mmscope.utils.pretrained import load_pretrained

from .embeddings import PatchEmbed, PosEmbeds
from .layers import (
    RMSNorm,
    ScoreMetric,
    VimBlock,
    at_least_float32,
)

ARCH_ZOO = {
    'tiny': dict(embed_dims=192, num_layers=24),
    'small': dict(embed_dims=384, num_layers=24),
    'base': dict(embed_dims=768, num_layers=24),
}
ARCH_KEYS = {'embed_dims', 'num_layers', 'd_state', 'expand', 'd_conv'}


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


def resolve_arch(arch: str | dict) -> dict:
    """Return the settings of an architecture.

    Args:
        arch: 'tiny', 'small', 'base', or a dict with ``embed_dims`` and
            ``num_layers`` and optionally ``d_state``, ``expand``, ``d_conv``.

    Raises:
        ValueError: the name is unknown, or the dict lacks or has other keys.
    """
    if isinstance(arch, str):
        if arch not in ARCH_ZOO:
            raise ValueError(
                f'arch must be one of {sorted(ARCH_ZOO)} or a dict, '
                f'got {arch!r}'
            )
        return dict(ARCH_ZOO[arch])
    keys = set(arch)
    if not {'embed_dims', 'num_layers'} <= keys <= ARCH_KEYS:
        raise ValueError(
            'an arch dict needs embed_dims and num_layers and may have '
            f'd_state, expand and d_conv, got the keys {sorted(keys)}'
        )
    return dict(arch)


class VimEncoder(PosEmbeds):
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
            ours and of the official Vim.
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
    ) -> None:
        super().__init__(init_cfg)
        arch = resolve_arch(arch)
        self.embed_dims = arch.pop('embed_dims')
        self.num_layers = arch.pop('num_layers')
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.size_divisor = size_divisor
        self.out_indices = self._check_out_indices(out_indices)
        self._check_scan_backend(scan_backend)
        self.with_cp = with_cp
        self.frozen_stages = frozen_stages

        dims = self.embed_dims
        self.patch_embed = PatchEmbed(in_channels, dims, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dims))
        self.cls_pos_embed = nn.Parameter(torch.zeros(1, 1, dims))
        grid = tuple(
            math.ceil(side / size_divisor) * size_divisor // patch_size
            for side in to_2tuple(img_size)
        )
        self.add_pos_embed('pos_embed', grid, dims)
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

    @staticmethod
    def _check_scan_backend(scan_backend: str) -> None:
        allowed = ['auto', *sorted(scan_backends())]
        if scan_backend not in allowed:
            raise ValueError(
                f'scan_backend must be one of {allowed}, got {scan_backend!r}'
            )

    def reset_parameters(self) -> None:
        """Draw Vim's initial weights."""
        self.patch_embed.reset_parameters()
        for name, parameter in self.named_parameters(recurse=False):
            if name.endswith(('cls_pos_embed', 'cls_token')):
                nn.init.trunc_normal_(parameter, std=0.02)
        self.reset_pos_embeds()
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
        pretrained = [c for c in configs if c['type'] == 'Pretrained']
        self.init_cfg = [c for c in configs if c['type'] != 'Pretrained']
        super().init_weights()
        self.init_cfg = configs
        self.reset_parameters()
        for config in pretrained:
            load_pretrained(
                self, config['checkpoint'], prefix=config.get('prefix')
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
                if name.endswith(('pos_embed', 'cls_token')):
                    parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> 'VimEncoder':
        """Set the mode; frozen blocks stay in evaluation mode."""
        super().train(mode)
        for layer in self.layers[: max(self.frozen_stages, 0)]:
            layer.eval()
        return self

    def check_images(self, x: Tensor) -> None:
        """Refuse what is not a batch of images.

        Raises:
            ValueError: wrong axes or channels, an empty batch, or images
                smaller than one coarse patch.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'expected images of shape (B, {self.in_channels}, H, W), '
                f'got a tensor of shape {tuple(x.shape)}'
            )
        if x.shape[0] == 0:
            raise ValueError('expected at least one image, got a batch of 0')
        if min(x.shape[2:]) < self.size_divisor:
            raise ValueError(
                f'images must be at least {self.size_divisor} pixels high '
                f'and wide, got {tuple(x.shape[2:])}; enlarge them'
            )

    def pad(self, x: Tensor) -> Tensor:
        """Zero-pad images right and bottom to multiples of size_divisor.

        A fallback: padding belongs to the data preprocessor, since heads
        stretch their output over the padded image.

        Args:
            x: (B, 3, H, W).

        Returns:
            (B, 3, H', W').
        """
        height, width = (-side % self.size_divisor for side in x.shape[2:])
        if not height and not width:
            return x
        # the logger shows a warning once
        MMLogger.get_current_instance().warning(
            'the backbone pads images to multiples of %d, and predictions '
            "are stretched; set the data preprocessor's size_divisor (mmseg: "
            'also in its test_cfg)',
            self.size_divisor,
        )
        return F.pad(x, (0, width, 0, height))

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
        x = at_least_float32(x)
        levels, importance = [], None
        for index, layer in enumerate(self.layers):
            metric = score if index in score_layers else None
            if self.with_cp and x.requires_grad:
                x, layer_score = checkpoint(
                    layer, x, metric, use_reentrant=False
                )
            else:
                x, layer_score = layer(x, metric)
            if layer_score is not None:
                importance = accumulate_importance(
                    importance, layer_score, beta
                )
            if index in self.out_indices:
                levels.append(x)
        return Encoded(tuple(levels), x, importance)

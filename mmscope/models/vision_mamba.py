"""Vision Mamba, the baseline."""

from collections.abc import Sequence

from torch import Tensor

from mmscope.functional import insert_cls, split_cls, tokens_to_map
from mmscope.functional.checks import check_choice
from mmscope.registry import MODELS

from .layer_depth import LayerDepth
from .vim import VimEncoder

OUT_TYPES = ('featmap', 'cls_token', 'raw')


@MODELS.register_module()
class VisionMambaBackbone(LayerDepth, VimEncoder):
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
            ours and of the official Vim.
        with_cp: Recompute blocks in the backward pass to save memory.
        frozen_stages: -1 freezes nothing, 0 the embeddings, n the first n
            blocks as well.

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
    ) -> None:
        check_choice('out_type', out_type, OUT_TYPES)
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
        )
        self.out_type = out_type
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
        levels = self.encode(insert_cls(tokens, cls)).levels
        if self.out_type == 'raw':
            return tuple(self.norm_f(level) for level in levels)
        if self.out_type == 'cls_token':
            return tuple(self.norm_f(split_cls(lvl)[1]) for lvl in levels)
        return tuple(
            tokens_to_map(norm(split_cls(level)[0]), grid)
            for norm, level in zip(self.level_norms, levels, strict=True)
        )

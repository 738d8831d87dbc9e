"""Vision Mamba, the baseline."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmscope.functional import insert_cls, split_cls, tokens_to_map
from mmscope.functional.checks import check_choice
from mmscope.functional.rotary import rotary_tables
from mmscope.registry import MODELS

from .encoder import Encoded, VimEncoder
from .layers import at_least_float32
from .token_reduction import build_reduction
from .token_reduction.base import shown_cells

OUT_TYPES = ('featmap', 'cls_token', 'raw')


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
        with_cls: Whether there is a class token, which the official dense
            models do without.
        level_norm: Whether maps pass a norm; without, they are the residual
            stream, as in the official detector.
        rope: Whether tokens are rotated by their place ahead of every block,
            as in the official dense models.
        patch_stride: Pixels from one patch to the next; by default P. The
            official "+" models have patches of 16 that overlap by half.
        pos_embed_fit: How position embeddings are fitted to other sizes:
            'resample' stretches them, 'extend' leaves each where it is.

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
        with_cls: bool = True,
        level_norm: bool = True,
        rope: bool = False,
        patch_stride: int | None = None,
        pos_embed_fit: str = 'resample',
    ) -> None:
        check_choice('out_type', out_type, OUT_TYPES)
        if token_reduction is not None:
            _refuse_beside(
                'token_reduction, which runs its own blocks',
                num_registers=num_registers,
                cuda_graphs=cuda_graphs,
                with_cp=with_cp,
                rope=rope,
                without_cls=not with_cls,
                patch_stride=patch_stride,
            )
        if rope:
            _refuse_beside(
                'rope, which knows the places of patches alone',
                num_registers=num_registers,
                cuda_graphs=cuda_graphs,
            )
        if out_type == 'cls_token' and not with_cls:
            raise ValueError(
                "out_type='cls_token' needs the class token: leave out "
                'with_cls=False'
            )
        super().__init__(
            arch=arch,
            img_size=img_size,
            patch_size=patch_size,
            in_channels=in_channels,
            out_indices=out_indices,
            level_norms=out_type == 'featmap' and level_norm,
            final_norm=out_type != 'featmap',
            drop_path_rate=drop_path_rate,
            scan_backend=scan_backend,
            size_divisor=patch_stride or patch_size,
            with_cp=with_cp,
            frozen_stages=frozen_stages,
            init_cfg=init_cfg,
            num_registers=num_registers,
            cuda_graphs=cuda_graphs,
            patch_stride=patch_stride,
            with_cls=with_cls,
            pos_embed_fit=pos_embed_fit,
        )
        if rope and self.embed_dims % 4:
            raise ValueError(
                'rope rotates pairs of channels by row and by column: '
                f'embed_dims must be a multiple of 4, got {self.embed_dims}'
            )
        self.out_type, self.rope = out_type, rope
        self.token_reduction = build_reduction(
            token_reduction, self.embed_dims, self.num_layers
        )
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
        grid = self.grid_of(tuple(x.shape[2:]))
        sequence = self.patch_embed(x) + self.pos_embed_at('pos_embed', grid)
        if self.cls_token is not None:
            cls = self.cls_token + self.cls_pos_embed
            sequence = insert_cls(sequence, cls.expand(x.shape[0], -1, -1))
        if self.token_reduction is None:
            tables = self._rotary_tables(grid, x) if self.rope else None
            encoded = self.encode(sequence, rotary=tables)
        else:
            encoded = self._encode_reduced(sequence, x)
        if self.out_type == 'raw':
            return tuple(self.norm_f(level) for level in encoded.levels)
        if self.out_type == 'cls_token':
            return tuple(
                self.norm_f(split_cls(level)[1]) for level in encoded.levels
            )
        levels = encoded.levels
        if self.level_norms:
            levels = self.normed_levels(encoded)
        return tuple(
            tokens_to_map(self._patches(level).to(x.dtype), grid)
            for level in levels
        )

    def _patches(self, sequence: Tensor) -> Tensor:
        """Tokens of the patches, (B, N, C)."""
        return sequence if self.cls_token is None else split_cls(sequence)[0]

    def _rotary_tables(
        self, grid: tuple[int, int], x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tables for the whole sequence; the class token stays as it is."""
        cos, sin = rotary_tables(grid, self.embed_dims, x.device)
        if self.cls_token is None:
            return cos, sin
        middle = len(cos) // 2
        return tuple(
            torch.cat([table[:middle], same, table[middle:]])
            for table, same in (
                (cos, torch.ones_like(cos[:1])),
                (sin, torch.zeros_like(sin[:1])),
            )
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


def _refuse_beside(what: str, **options: object) -> None:
    """Refuse options that do not go with another one.

    Raises:
        ValueError: one of them is set.
    """
    given = {key: value for key, value in options.items() if value}
    if given:
        raise ValueError(f'leave out {given} beside {what}')

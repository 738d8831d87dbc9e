"""From images to tokens: patches, and positions that know their grid."""

import math

import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.utils import to_2tuple
from torch import Tensor, nn

from mmscope.functional import take_tokens
from mmscope.functional.checks import check_choice

Grid = tuple[int, int]
FITS = ('resample', 'extend')
# ends of the names of parameters that are tokens or added to tokens
EMBEDDED = ('pos_embed', 'cls_token', 'registers')


class PatchEmbed(nn.Module):
    """Cut an image into patches and project them.

    Args:
        in_channels: Image channels.
        embed_dims: Token channels C.
        patch_size: Side of a patch in pixels.
        stride: Pixels from one patch to the next; by default ``patch_size``.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        patch_size: int,
        stride: int | None = None,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            in_channels, embed_dims, patch_size, stride or patch_size
        )

    def reset_parameters(self) -> None:
        """LeCun normal, as Vim starts its patch embedding."""
        # a normal truncated at two deviations has 0.8796 of its deviation
        std = self.proj.weight[0].numel() ** -0.5 / 0.87962566
        nn.init.trunc_normal_(self.proj.weight, 0.0, std, -2 * std, 2 * std)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Embed patches in row-major order, or some of them.

        Args:
            x: Images, (B, 3, H, W).
            index: Row-major places of the patches to embed, (B, K), or None
                for all.

        Returns:
            (B, N, C), or (B, K, C).
        """
        if index is None:
            return self.proj(x).flatten(2).transpose(1, 2)
        side = self.proj.kernel_size[0]
        width = x.shape[3] // side
        # of most, it is faster to embed all and to leave some out
        if (
            torch.compiler.is_exporting()  # for any size
            or self._watched
            or 4 * index.shape[1] > 3 * (x.shape[2] // side) * width
        ):
            return take_tokens(self(x), index)
        grid = x.unflatten(3, (-1, side)).unflatten(2, (-1, side))
        image = torch.arange(len(x), device=x.device).unsqueeze(1)
        patches = grid[image, :, index // width, :, index % width]
        weight = self.proj.weight.flatten(1)
        return F.linear(patches.flatten(2), weight, self.proj.bias)

    @property
    def _watched(self) -> bool:
        """Whether the convolution itself must run: hooks, another layer."""
        proj = self.proj
        hooks = len(proj._forward_hooks) + len(proj._forward_pre_hooks)
        return hooks > 0 or type(proj) is not nn.Conv2d


def resize_pos_embed(
    pos_embed: Tensor, src: Grid, dst: Grid, fit: str = 'resample'
) -> Tensor:
    """Fit position embeddings to another grid.

    Args:
        pos_embed: Row-major, without CLS, (1, h * w, C).
        src: Grid (h, w) that it has.
        dst: Grid that it gets.
        fit: 'resample' stretches them bicubically; 'extend' leaves each where
            it is, cuts off what is beyond the grid, and repeats the last row
            and column where there is none.

    Returns:
        (1, h' * w', C).
    """
    # an exported program resamples to its own grid as well, which changes
    # nothing, so that other sizes are not excluded
    if not torch.compiler.is_exporting() and src == dst:
        return pos_embed
    wide = pos_embed.to(torch.promote_types(pos_embed.dtype, torch.float32))
    grid = wide.transpose(1, 2).unflatten(2, src)
    if fit == 'extend':
        grid = grid[..., : dst[0], : dst[1]]
        height, width = grid.shape[2:]
        beyond = (0, dst[1] - width, 0, dst[0] - height)
        grid = F.pad(grid, beyond, mode='replicate')
    else:
        grid = F.interpolate(
            grid, size=dst, mode='bicubic', align_corners=False
        )
    return grid.flatten(2).transpose(1, 2).to(pos_embed.dtype)


class Embeddings(BaseModule):
    """Base of the encoder: patches, class token and position embeddings.

    Beside the position embeddings ``NAME``, (1, h * w, C), the state dict
    has their grid (h, w) as ``NAME_grid``: the number of rows does not tell
    it. Loading resamples rows of another grid.

    Args:
        img_size: Image size that ``pos_embed`` is stored for.
        patch_size: Side of a patch P in pixels.
        in_channels: Image channels.
        embed_dims: Token channels C.
        size_divisor: Multiple that image sides are padded to.
        init_cfg: mmengine's.
        patch_stride: Pixels from one patch to the next; by default P.
        with_cls: Whether there is a class token.
        pos_embed_fit: How position embeddings are fitted to other sizes at
            run time, see :func:`resize_pos_embed`.

    Raises:
        ValueError: an argument is out of its range or none of its choices.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int],
        patch_size: int,
        in_channels: int,
        embed_dims: int,
        size_divisor: int,
        init_cfg: dict | list[dict] | None = None,
        patch_stride: int | None = None,
        with_cls: bool = True,
        pos_embed_fit: str = 'resample',
    ) -> None:
        super().__init__(init_cfg)
        check_choice('pos_embed_fit', pos_embed_fit, FITS)
        stride = patch_size if patch_stride is None else patch_stride
        if not 0 < stride <= patch_size:
            raise ValueError(
                f'patch_stride must be in [1, {patch_size}], the patch size, '
                f'got {patch_stride}'
            )
        self.patch_size, self.patch_stride = patch_size, stride
        self.pos_embed_fit = pos_embed_fit
        self.in_channels = in_channels
        self.embed_dims = embed_dims
        self.size_divisor = size_divisor
        self.patch_embed = PatchEmbed(
            in_channels, embed_dims, patch_size, stride
        )
        self.cls_token = self.cls_pos_embed = None
        if with_cls:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
            self.cls_pos_embed = nn.Parameter(torch.zeros(1, 1, embed_dims))
        self.pos_grids: dict[str, Grid] = {}
        sides = (
            math.ceil(side / size_divisor) * size_divisor
            for side in to_2tuple(img_size)
        )
        self.add_pos_embed('pos_embed', self.grid_of(tuple(sides)))
        self.register_load_state_dict_pre_hook(_resample_loaded)

    def grid_of(self, size: tuple[int, int]) -> Grid:
        """Patches that fit into a padded image, by its height and width."""
        height, width = (
            (side - self.patch_size) // self.patch_stride + 1 for side in size
        )
        return height, width

    def add_pos_embed(self, name: str, grid: Grid) -> None:
        """Register position embeddings for a grid (h, w)."""
        rows = torch.zeros(1, math.prod(grid), self.embed_dims)
        self.register_parameter(name, nn.Parameter(rows))
        self.register_buffer(f'{name}_grid', torch.tensor(grid))
        self.pos_grids[name] = grid

    def pos_embed_at(self, name: str, grid: Grid) -> Tensor:
        """Position embeddings for any grid (h, w), (1, h * w, C)."""
        rows = getattr(self, name)
        return resize_pos_embed(
            rows, self.pos_grids[name], grid, self.pos_embed_fit
        )

    def reset_parameters(self) -> None:
        """Draw Vim's initial weights."""
        self.patch_embed.reset_parameters()
        for name, parameter in self.named_parameters(recurse=False):
            if name.endswith(EMBEDDED):
                nn.init.trunc_normal_(parameter, std=0.02)
        for name, grid in self.pos_grids.items():
            # memory that was never written to holds no grid
            self.get_buffer(f'{name}_grid').copy_(torch.tensor(grid))

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


def _resample_loaded(
    module: Embeddings, state_dict: dict, prefix: str, *_: object
) -> None:
    """Fit position embeddings that are loaded to the module's grids."""
    for name, own in module.pos_grids.items():
        key = prefix + name
        stored = state_dict.get(f'{key}_grid')
        if stored is None or key not in state_dict:
            continue
        grid = tuple(stored.tolist())
        state_dict[key] = resize_pos_embed(state_dict[key], grid, own)
        state_dict[f'{key}_grid'] = stored.new_tensor(own)

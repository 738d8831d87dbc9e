"""Patch embeddings, and position embeddings that know their grid."""

import math

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

Grid = tuple[int, int]


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


def resize_pos_embed(pos_embed: Tensor, src: Grid, dst: Grid) -> Tensor:
    """Resample position embeddings bicubically to another grid.

    Args:
        pos_embed: Row-major, without CLS, (1, h * w, C).
        src: Grid (h, w) that it has.
        dst: Grid that it gets.

    Returns:
        (1, h' * w', C).
    """
    # an exported program resamples to its own grid as well, which changes
    # nothing, so that other sizes are not excluded
    if not torch.compiler.is_exporting() and src == dst:
        return pos_embed
    wide = pos_embed.to(torch.promote_types(pos_embed.dtype, torch.float32))
    grid = wide.transpose(1, 2).unflatten(2, src)
    grid = F.interpolate(grid, size=dst, mode='bicubic', align_corners=False)
    return grid.flatten(2).transpose(1, 2).to(pos_embed.dtype)


class PosEmbeds(BaseModule):
    """Base of modules with position embeddings, stored with their grid.

    Beside the parameter ``NAME``, (1, h * w, C), the state dict has
    ``NAME_grid``, (h, w) as integers: the number of rows does not tell it.
    Loading resamples rows of another grid.

    Args:
        init_cfg: mmengine's.
    """

    def __init__(self, init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg)
        self.pos_grids: dict[str, Grid] = {}
        self.register_load_state_dict_pre_hook(_resample_loaded)

    def add_pos_embed(self, name: str, grid: Grid, embed_dims: int) -> None:
        """Register position embeddings for a grid (h, w)."""
        rows = torch.zeros(1, math.prod(grid), embed_dims)
        self.register_parameter(name, nn.Parameter(rows))
        self.register_buffer(f'{name}_grid', torch.tensor(grid))
        self.pos_grids[name] = grid

    def reset_pos_embeds(self) -> None:
        """Truncated normal of deviation 0.02."""
        for name, grid in self.pos_grids.items():
            nn.init.trunc_normal_(self.get_parameter(name), std=0.02)
            # memory that was never written to holds no grid
            self.get_buffer(f'{name}_grid').copy_(torch.tensor(grid))

    def pos_embed_at(self, name: str, grid: Grid) -> Tensor:
        """Position embeddings for any grid (h, w), (1, h * w, C)."""
        rows = getattr(self, name)
        return resize_pos_embed(rows, self.pos_grids[name], grid)


def _resample_loaded(
    module: PosEmbeds, state_dict: dict, prefix: str, *_: object
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

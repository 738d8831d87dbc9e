"""Weights as the official Vim has them."""

import argparse
from pathlib import Path

import pytest
import torch

ARCH = dict(embed_dims=32, num_layers=3)


def vim_state(side: int = 4) -> dict[str, torch.Tensor]:
    """Weights with the official names and shapes, all of them different."""
    dims, inner, rank, states = 32, 64, 2, 16
    shapes = {
        'cls_token': (1, 1, dims),
        'pos_embed': (1, side * side + 1, dims),
        'patch_embed.proj.weight': (dims, 3, 16, 16),
        'patch_embed.proj.bias': (dims,),
        'norm_f.weight': (dims,),
        'head.weight': (1000, dims),
        'head.bias': (1000,),
    }
    for n in range(3):
        shapes[f'layers.{n}.norm.weight'] = (dims,)
        mixer = {
            'in_proj.weight': (2 * inner, dims),
            'out_proj.weight': (dims, inner),
        }
        for s, a in (('', 'A'), ('_b', 'A_b')):
            mixer |= {
                f'{a}_log': (inner, states),
                f'D{s}': (inner,),
                f'conv1d{s}.weight': (inner, 1, 4),
                f'conv1d{s}.bias': (inner,),
                f'x_proj{s}.weight': (rank + 2 * states, inner),
                f'dt_proj{s}.weight': (inner, rank),
                f'dt_proj{s}.bias': (inner,),
            }
        shapes |= {f'layers.{n}.mixer.{k}': v for k, v in mixer.items()}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


@pytest.fixture(params=['wrapped', 'bare'])
def vim_file(request, tmp_path) -> tuple[Path, dict]:
    """An official checkpoint, as released and as a bare state dict."""
    state, path = vim_state(), tmp_path / 'vim.pth'
    wrapped = dict(model=state, epoch=3, args=argparse.Namespace(lr=1.0))
    torch.save(wrapped if request.param == 'wrapped' else state, path)
    return path, state

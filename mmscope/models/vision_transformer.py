"""Vision Transformer with fused attention, the rival that DeiT's rows run."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmscope.registry import MODELS
from mmscope.utils.versions import require

require('mmseg')

from mmcv.cnn.bricks.transformer import MultiheadAttention  # noqa: E402
from mmseg.models import VisionTransformer  # noqa: E402

from .block_graphs import BlockGraphs  # noqa: E402


class FusedAttention(nn.Module):
    """Self-attention on the weights of mmcv's, in one fused kernel.

    mmcv turns tokens and batch round, which makes strided products of the
    projections, and asks torch for the attention weights, which it throws
    away: a matrix of tokens times tokens is written for every head.

    Args:
        plain: Module whose parts it takes over, names included.
    """

    def __init__(self, plain: MultiheadAttention) -> None:
        super().__init__()
        self.attn = plain.attn
        self.proj_drop = plain.proj_drop
        self.dropout_layer = plain.dropout_layer

    def forward(self, query: Tensor, identity: Tensor) -> Tensor:
        """Attend, and add to ``identity``; both are (B, N, C)."""
        attn = self.attn
        qkv = F.linear(query, attn.in_proj_weight, attn.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, attn.num_heads, -1)).unbind(2)
        out = F.scaled_dot_product_attention(
            *(tokens.transpose(1, 2) for tokens in (q, k, v)),
            dropout_p=attn.dropout if self.training else 0.0,
        )
        out = attn.out_proj(out.transpose(1, 2).flatten(2))
        return identity + self.dropout_layer(self.proj_drop(out))


@MODELS.register_module()
class FusedVisionTransformer(VisionTransformer):
    """mmseg's VisionTransformer with :class:`FusedAttention`.

    The same outputs, weights and checkpoints, some four times as fast on
    6000 tokens.

    Args:
        cuda_graphs: Whether the forward pass is replayed as a CUDA graph in
            inference, for sizes that come again, see :class:`BlockGraphs`.
        **options: VisionTransformer's own arguments, which it checks.
    """

    def __init__(self, cuda_graphs: bool = False, **options: Any) -> None:
        super().__init__(**options)
        for layer in self.layers:
            layer.attn = FusedAttention(layer.attn)
        self.block_graphs = BlockGraphs() if cuda_graphs else None

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """See VisionTransformer; images (B, 3, H, W) to maps (B, C, h, w)."""
        # with class tokens, an output is a list of two
        if self.block_graphs is None or self.output_cls_token:
            return super().forward(inputs)
        return self.block_graphs(super().forward, self, inputs)

    def train(self, mode: bool = True) -> 'FusedVisionTransformer':
        """Set the mode; training needs the memory of graphs."""
        # the parent's constructor calls it before there are any
        if mode and getattr(self, 'block_graphs', None) is not None:
            self.block_graphs.clear()
        super().train(mode)  # mmseg's returns nothing
        return self


__all__ = ['FusedAttention', 'FusedVisionTransformer']

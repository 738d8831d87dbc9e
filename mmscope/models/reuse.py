"""Reuse of coarse features in the fine stage."""

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmscope.functional.checks import check_choice

REUSES = ('mlp', 'linear', 'none')


class FeatureReuse(BaseModule):
    """Turn coarse output tokens into offsets of fine tokens (Eq. 17).

    'mlp' is LN, Linear(C, 4C), GELU, Linear(4C, C); 'linear', of the
    ablation in Fig. 5, is LN, Linear(C, C).

    Args:
        embed_dims: Token channels C.
        kind: 'mlp' or 'linear'.
    """

    def __init__(self, embed_dims: int, kind: str = 'mlp') -> None:
        super().__init__()
        check_choice('reuse', kind, REUSES[:2])
        hidden = 4 * embed_dims
        layers = [nn.LayerNorm(embed_dims)]
        if kind == 'mlp':
            layers += [
                nn.Linear(embed_dims, hidden),
                nn.GELU(),
                nn.Linear(hidden, embed_dims),
            ]
        else:
            layers.append(nn.Linear(embed_dims, embed_dims))
        self.layers = nn.Sequential(*layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal of deviation 0.02, as ViT's linear layers."""
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transform coarse tokens after the final norm, (B, N, C)."""
        return self.layers(x)

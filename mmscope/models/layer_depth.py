"""How deep in a backbone a parameter lies."""

import re

from .embeddings import EMBEDDED


class LayerDepth:
    """Mixin of the backbones, for layer-wise learning rates."""

    num_layers: int

    def get_layer_depth(
        self, param_name: str, prefix: str = ''
    ) -> tuple[int, int]:
        """Tell the depth of a parameter, as mmpretrain's backbones do.

        Args:
            param_name: Name of the parameter in the model.
            prefix: Name of the backbone in the model, with a dot.

        Returns:
            Its depth and the number of depths: embeddings have 0, block i
            has i + 1, and what comes after the blocks the last.
        """
        num_depths = self.num_layers + 2
        name = param_name.removeprefix(prefix)
        if name.startswith('patch_embed') or name.endswith(EMBEDDED):
            return 0, num_depths
        if block := re.match(r'layers\.(\d+)\.', name):
            return int(block[1]) + 1, num_depths
        return num_depths - 1, num_depths

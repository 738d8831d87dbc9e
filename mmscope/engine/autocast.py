"""Mixed precision where there is no GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast
from torch import nn

from mmscope.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Train in bfloat16 on any device, with weights in float32.

    mmengine's AmpOptimWrapper refuses CPUs, for its loss scaling, which
    bfloat16, with the range of float32, does without.

    Args:
        optimizer: Optimizer, as of OptimWrapper; so are the other options.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass in bfloat16.

        Args:
            model: Model that is trained.
        """
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield

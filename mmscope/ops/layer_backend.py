"""Which kernels the operators beside the scan run in."""

from __future__ import annotations

from torch import Tensor

from . import cpu_scan, triton_check
from .selective_scan import wanted_backend

# scan backends that bring kernels for the other operators
KERNELS = {'cpu': cpu_scan.why_not, 'triton': triton_check.why_not}


def layer_kernels(x: Tensor, backend: str | None) -> str:
    """Return 'cpu' for C++, 'triton', or 'torch' for plain torch.

    It follows the scan: 'auto' takes the first that can run, 'cpu' and
    'triton' are what they say, every other backend takes plain torch.

    Args:
        x: What the operator reads.
        backend: Of the scan; None for what ``use_backend`` or the
            environment say.

    Raises:
        RuntimeError: kernels were asked for by name and cannot run.
    """
    name = wanted_backend(backend)
    for kernels, why_not in KERNELS.items():
        if name not in ('auto', kernels):
            continue
        reason = why_not(x)
        if reason is None:
            return kernels
        if name != 'auto':
            raise RuntimeError(
                f'scan backend {name!r} cannot run here: {reason}'
            )
    return 'torch'

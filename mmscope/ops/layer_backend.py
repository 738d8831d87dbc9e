"""Where the operators beside the scan run: in C++, or in plain torch."""

from __future__ import annotations

from torch import Tensor

from . import cpu_scan
from .selective_scan import wanted_backend


def runs_in_cpp(x: Tensor, backend: str | None) -> bool:
    """Whether an operator on ``x`` runs in C++.

    It follows the scan: 'auto' does where it can, 'cpu' must, every other
    backend takes plain torch.

    Args:
        x: What the operator reads.
        backend: Of the scan; None for what ``use_backend`` or the
            environment say.

    Raises:
        RuntimeError: the C++ operators were asked for and cannot run.
    """
    name = wanted_backend(backend)
    if name not in ('auto', 'cpu'):
        return False
    reason = cpu_scan.why_not(x)
    if reason and name == 'cpu':
        raise RuntimeError(f"scan backend 'cpu' cannot run here: {reason}")
    return reason is None

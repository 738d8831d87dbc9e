"""Forward-mode derivatives: no kernel has them, so each refuses.

torch drops the tangents of an operator without a rule, and its derivative
would be zero. A call in an exported program cannot take another backend.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

REASON = (
    'it has no forward-mode derivative (torch.func.jvp); choose '
    "backend='reference'"
)
_LIBRARY = torch.library.Library('mmscope', 'IMPL')


def active() -> bool:
    """Whether forward-mode derivatives are being taken."""
    # no public name tells this of tensors inside of vmap
    return forward_ad._current_level >= 0


def refuse(operator: str) -> None:
    """Raise RuntimeError if forward-mode derivatives are being taken.

    Args:
        operator: Name of the operator, for the message.
    """
    if active():
        raise RuntimeError(f'mmscope::{operator} cannot run here: {REASON}')


def refuse_in(operator: str) -> None:
    """Let an operator of C++ refuse: before its kernel, after autograd."""
    overload = getattr(torch.ops.mmscope, operator).default

    def kernel(keys: Any, *given: Any) -> Any:
        refuse(operator)
        # torch's own way to go on, which has no public name
        rest = keys & torch._C._after_ADInplaceOrView_keyset
        return overload.redispatch(rest, *given)

    _LIBRARY.impl(operator, kernel, 'ADInplaceOrView', with_keyset=True)

"""What every scan backend is called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Inputs(NamedTuple):
    """The tensors of one call: G scans over the same tokens at once.

    They may have any strides, mixed float dtypes and an empty batch.

    Attributes:
        u, delta: (G, B, L, Dim).
        A: (G, Dim, S).
        B, C: (G, B, L, S).
        D, delta_bias: (G, Dim).
        z: Gate of every direction, (B, L, Dim).
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None

    def rows(self, rows: slice) -> Inputs:
        """The same for a slice of the batch, as views."""
        return self._replace(
            u=self.u[:, rows],
            delta=self.delta[:, rows],
            B=self.B[:, rows],
            C=self.C[:, rows],
            z=None if self.z is None else self.z[rows],
        )


class Options(NamedTuple):
    """How to scan.

    Attributes:
        delta_softplus: Whether softplus is applied to the step sizes.
        reverse: Whether each of the G scans runs from the last token.
        merge: Whether to return the mean over G.
        importance: Whether to score the tokens.
    """

    delta_softplus: bool
    reverse: tuple[bool, ...]
    merge: bool
    importance: bool


# What a backend does. It returns out of u's dtype, (B, L, Dim) if merged,
# else (G, B, L, Dim); and the importance (B, L), detached, float32, or None.
# State, step size and importance are computed in ``reference.state_dtype``.
ScanCore = Callable[[Inputs, Options], tuple[Tensor, Tensor | None]]

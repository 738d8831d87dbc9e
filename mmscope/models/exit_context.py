"""What holds for the passes of one backbone inside a block of code.

Signatures of mmseg and mmdet have no room for thresholds, padding masks, file
names and records. One object carries them all; each thread has a stack of
them, so that threads and nested calls do not see each other's, and nothing is
set on a model.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor, nn

from .scope_result import ScopeResult
from .stages import Maps


class ExitSettings(NamedTuple):
    """How a backbone decides about exits in inference.

    Attributes:
        eta: Confidence from which an image exits.
        policy: Exit policy, or None where the exit head judges.
        resolution: Resolution that exited images are decoded at, 'fine' or
            'coarse'.
        shares: Shares of cells that can be refined, ascending.
        tau: Score above which a cell is worth refining, or None.
        cell_score: Score of the cells.
    """

    eta: float
    policy: nn.Module | None
    resolution: str
    shares: tuple[float, ...]
    tau: float | None
    cell_score: nn.Module

    @property
    def decodes(self) -> bool:
        """Whether they decode the coarse maps of every image to choose."""
        by_policy = self.policy is not None and self.policy.decodes
        return self.cell_score.decodes or by_policy


@dataclass(frozen=True)
class ExitContext:
    """Settings, evidence and records of the passes inside a block.

    Attributes:
        settings: Values instead of the backbone's own, by the names of
            :class:`ExitSettings`.
        compared: Policies whose confidences are wanted beside, by name.
        content: 1 where a pixel is no padding, (B, 1, H, W), or None where
            all are content.
        paths: File of each image, B, or none at all.
        decoder: Function from coarse maps to the logits of every pixel.
        truth: Label of every pixel, -1 where it does not count, (B, H, W),
            or None where it is not known.
        judge: Function from these logits to errors, see :class:`Evidence`.
        given: Maps that a detector takes instead of running its backbone.
        records: Lists that each pass is appended to.
        replayed: Records to return instead of running passes.
    """

    settings: Mapping[str, object] = field(default_factory=dict)
    compared: Mapping[str, nn.Module] = field(default_factory=dict)
    content: Tensor | None = None
    paths: Sequence[str] = ()
    decoder: Callable[[Maps], Tensor] | None = None
    truth: Tensor | None = None
    judge: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    given: Maps | None = None
    records: tuple[list[ScopeResult], ...] = ()
    replayed: Iterator[ScopeResult] | None = None


_NOTHING = ExitContext()


class _Contexts(threading.local):
    """What holds in this thread; torch.compile and export can read it."""

    def __init__(self) -> None:
        self.stack: tuple[tuple[nn.Module, ExitContext], ...] = ()


_CONTEXTS = _Contexts()


def exit_context(backbone: nn.Module) -> ExitContext:
    """What holds for the passes of a backbone now."""
    for owner, context in reversed(_CONTEXTS.stack):
        if owner is backbone:
            return context
    return _NOTHING


@contextmanager
def changed_context(
    backbone: nn.Module, **changes: object
) -> Iterator[ExitContext]:
    """Change some of what holds for the passes of a backbone in a block.

    Args:
        backbone: The module itself is the key: no copy of it is affected.
        **changes: Attributes of :class:`ExitContext`.
    """
    context = replace(exit_context(backbone), **changes)
    before = _CONTEXTS.stack
    _CONTEXTS.stack = (*before, (backbone, context))
    try:
        yield context
    finally:
        _CONTEXTS.stack = before


def next_record(records: Iterator[ScopeResult], x: Tensor) -> ScopeResult:
    """Take the record of a pass that has been run before.

    Args:
        records: Records that are left.
        x: Images that the pass was over, (B, 3, H, W).

    Raises:
        RuntimeError: there is no record left, or it is of another batch.
    """
    record = next(records, None)
    if record is None or len(record.images) != len(x):
        found = 'none' if record is None else f'{len(record.images)}'
        raise RuntimeError(
            f'{len(x)} images are to be answered from a recorded pass, which '
            f'has {found}: give the model the same images in the same order'
        )
    return record

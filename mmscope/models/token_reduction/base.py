"""What all ways to reduce tokens have in common."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from torch import Tensor

from mmscope.functional import insert_cls, take_tokens
from mmscope.functional.pruning import Gaps
from mmscope.registry import MODELS

from ..layers import ScoreMetric, VimBlock


class Reduced(NamedTuple):
    """A sequence that stands for all cells of an image.

    Attributes:
        x: Residual stream, (B, L, C).
        update: What the last block adds to it (B, L, C), or None if that is
            in it.
        mixed: Output of the last mixer (B, L, C), or None before the first.
        cls: Place of the class token.
        slots: Token that stands for each cell, counted without CLS, (B, N);
            -1 where none does.
        sizes: Number of cells that each token stands for, (B, L - 1).
        valid: True where a token shows some of the image, (B, L - 1), or
            None where all do.
        left: What cells without a token had when they lost it, (B, N, C), or
            None before any did.
        gaps: Where tokens are missing that states decay over, or None.
    """

    x: Tensor
    update: Tensor | None
    mixed: Tensor | None
    cls: int
    slots: Tensor
    sizes: Tensor
    valid: Tensor | None
    left: Tensor | None = None
    gaps: Gaps | None = None

    @property
    def stream(self) -> Tensor:
        """Residual stream with what the last block adds, (B, L, C)."""
        if self.update is None:
            return self.x
        return self.x + self.update.to(self.x.dtype)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Take CLS out of a sequence (B, L, C): (B, L - 1, C), (B, 1, C)."""
        at = self.cls
        return torch.cat([x[:, :at], x[:, at + 1 :]], dim=1), x[:, at : at + 1]

    def keep(self, kept: Tensor) -> Reduced:
        """Drop all tokens but some, and put CLS in their middle.

        Cells whose tokens are dropped keep what they had.

        Args:
            kept: Tokens to keep, counted without CLS, ascending, (B, K).
        """
        others, cls = self.split(self.stream)
        left = self._of_cells(others)
        others, at = take_tokens(others, kept), kept.shape[1] // 2
        valid = self.valid
        return self._replace(
            x=torch.cat([others[:, :at], cls, others[:, at:]], dim=1),
            update=None,
            mixed=None,
            cls=at,
            slots=_slots_of(self.slots, kept),
            sizes=self.sizes.gather(1, kept),
            valid=None if valid is None else valid.gather(1, kept),
            left=left,
        )

    def mask(self, kept: Tensor) -> Reduced:
        """Zero all tokens but some, in a sequence of a token for every cell.

        Args:
            kept: Tokens to keep, counted without CLS, ascending, (B, K).
        """
        others, cls = self.split(self.stream)
        here = torch.zeros_like(self.slots, dtype=torch.bool)
        here = here.scatter(1, kept, True)
        zeroed = others * here.unsqueeze(-1)
        at = self.cls
        return self._replace(
            x=torch.cat([zeroed[:, :at], cls, zeroed[:, at:]], dim=1),
            update=None,
            mixed=None,
            slots=self.slots.masked_fill(~here, -1),
            sizes=self.sizes * here,
            left=self._of_cells(others),
        )

    def cells(self) -> Tensor:
        """What every cell has, with CLS in the middle, (B, N + 1, C)."""
        tokens, cls = self.split(self.stream)
        return insert_cls(self._of_cells(tokens), cls)

    def _of_cells(self, tokens: Tensor) -> Tensor:
        """What every cell has of tokens (B, L - 1, C), (B, N, C)."""
        cells = take_tokens(tokens, self.slots.clamp(min=0))
        if self.left is None:
            return cells
        lost = (self.slots < 0).unsqueeze(-1)
        return torch.where(lost, self.left, cells)


# lists that collect the sequences of the passes in a block of code
_COLLECTORS: ContextVar[tuple[list[object], ...]] = ContextVar(
    'collectors', default=()
)


@contextmanager
def collect_sequences() -> Iterator[list]:
    """Collect what each pass had behind every block, in a block of code.

    Yields:
        A list that gets, for each pass, the sequences by block, or in
        training what the reduction learns from.
    """
    found: list = []
    token = _COLLECTORS.set((*_COLLECTORS.get(), found))
    try:
        yield found
    finally:
        _COLLECTORS.reset(token)


def collect(record: object) -> bool:
    """Give a record to all who collect; says whether anybody does."""
    collectors = _COLLECTORS.get()
    for collector in collectors:
        collector.append(record)
    return bool(collectors)


class TokenReduction(BaseModule, metaclass=ABCMeta):
    """Runs the blocks of Vision Mamba over fewer and fewer tokens.

    Set ``token_reduction`` of :class:`VisionMambaBackbone` to the config of
    one of them. Batches stay rectangular; the number of tokens grows with the
    grid. Cells that show nothing but padding count as little as can be.
    """

    # whether it has parameters, of the backbone's sizes
    learns = False
    # how mixers score tokens in the blocks that ask for it
    score: ScoreMetric | None = None

    def before_block(self, index: int, tokens: Reduced) -> Reduced:
        """Change the sequence ahead of a block.

        Args:
            index: Number of the block, from 0.
            tokens: The sequence.
        """
        return tokens

    def after_block(
        self, index: int, tokens: Reduced, score: Tensor | None
    ) -> Reduced:
        """Change the sequence behind a block.

        Args:
            index: Number of the block, from 0.
            tokens: The sequence.
            score: Scores of its tokens, (B, L), where the block is asked.
        """
        return tokens

    def mix(
        self,
        index: int,
        layer: VimBlock,
        tokens: Reduced,
        score: ScoreMetric | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run a block, see :meth:`VimBlock.mix`.

        Args:
            index: Number of the block, from 0.
            layer: The block.
            tokens: The sequence.
            score: How to score tokens, or None.
        """
        return layer.mix(tokens.x, tokens.update, score, tokens.gaps)

    def loss(self, record: object) -> dict[str, Tensor]:
        """Losses that train the reduction beside the task; most have none.

        Args:
            record: What :func:`collect_sequences` collected of a pass.
        """
        return {}

    @abstractmethod
    def asks_score(self, index: int) -> bool:
        """Whether a block is to score its tokens."""

    def run(
        self,
        layers: Sequence[VimBlock],
        x: Tensor,
        valid: Tensor | None,
        out_indices: Sequence[int],
    ) -> list[Tensor]:
        """Run blocks over ever fewer tokens.

        Args:
            layers: Blocks.
            x: Embedded tokens with CLS in the middle, (B, N + 1, C).
            valid: True where a token shows some of the image, (B, N), or
                None where all do.
            out_indices: Blocks whose output is returned.

        Returns:
            What all cells have after each of ``out_indices``, with CLS in
            the middle, (B, N + 1, C) each.
        """
        batch, total = x.shape[0], x.shape[1] - 1
        slots = torch.arange(total, device=x.device).expand(batch, -1)
        sizes = x.new_ones(batch, total)
        tokens = Reduced(x, None, None, total // 2, slots, sizes, valid)
        levels, sequences = [], []
        collected = bool(_COLLECTORS.get())
        for index, layer in enumerate(layers):
            tokens = self.before_block(index, tokens)
            score = self.score if self.asks_score(index) else None
            x, mixed, scores = self.mix(index, layer, tokens, score)
            tokens = tokens._replace(
                x=x, mixed=mixed, update=layer.drop_path(mixed)
            )
            tokens = self.after_block(index, tokens, scores)
            if collected:
                sequences.append(tokens)
            if index in out_indices:
                levels.append(tokens.cells())
        collect(sequences)
        return levels


def _slots_of(slots: Tensor, kept: Tensor) -> Tensor:
    """Tokens that stand for cells once some are gone.

    Args:
        slots: Token of each cell before, -1 for none, (B, N).
        kept: Tokens that are kept, ascending, (B, K).
    """
    ranks = torch.arange(kept.shape[1], device=kept.device)
    total = slots.shape[1]
    table = slots.new_full((len(slots), total + 1), -1)
    table = table.scatter(1, kept, ranks.expand_as(kept))
    # the last column stands for "none"
    return table.gather(1, slots.masked_fill(slots < 0, total))


def build_reduction(
    config: dict | None, embed_dims: int, num_layers: int
) -> TokenReduction | None:
    """Build what reduces tokens, None of None.

    Args:
        config: Its config.
        embed_dims: Token channels of the backbone.
        num_layers: Number of its blocks.

    Raises:
        TypeError: the config is that of something else.
    """
    if config is None:
        return None
    kind = config.get('type') if isinstance(config, dict) else None
    if isinstance(kind, str):
        kind = MODELS.get(kind)
    if not (isinstance(kind, type) and issubclass(kind, TokenReduction)):
        raise TypeError(
            'token_reduction must be the config of a TokenReduction, such as '
            f"dict(type='mmscope.TokenMerging'), got {config!r}"
        )
    if kind.learns:
        config = dict(config, embed_dims=embed_dims, num_layers=num_layers)
    return MODELS.build(config)


def shown_cells(x: Tensor, patch_size: int) -> Tensor:
    """Cells that show some of an image, which padding is zero in.

    Preprocessors pad with zeros what they have normalised, and no pixel of an
    image is zero in all channels then. An image that is zero everywhere is
    taken for one that shows something.

    Args:
        x: Images, padded to multiples of ``patch_size``, (B, 3, H, W).
        patch_size: Side of a cell in pixels.

    Returns:
        (B, N) bool.
    """
    lit = (x != 0).any(dim=1)
    rows, columns = (side // patch_size for side in lit.shape[1:])
    lit = lit.unflatten(2, (columns, patch_size)).any(dim=3)
    lit = lit.unflatten(1, (rows, patch_size)).any(dim=2).flatten(1)
    return lit | ~lit.any(dim=1, keepdim=True)

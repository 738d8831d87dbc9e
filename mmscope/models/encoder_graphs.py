"""The encoder replayed as CUDA graphs, where launches cost more than work.

At batch 1 a GPU waits for the host: some hundred launches for each stage. A
graph launches all of a stage at once. It is captured once for each sequence
length and for a few batch sizes, to which smaller batches are filled up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from .vim import Encoded, VimEncoder

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
WARM_UPS = 3  # libraries set themselves up, and kernels are tuned


class Captured(NamedTuple):
    """One graph.

    Attributes:
        tokens: What it reads, (bucket, L, C).
        replay: Runs it; returns what it writes, the same memory each time.
    """

    tokens: Tensor
    replay: Callable[[], Encoded]


class EncoderGraphs:
    """Runs ``VimEncoder.run_blocks`` by graphs, one for each kind of call.

    Args:
        batch_sizes: Batches that are captured; others are filled up to the
            next one, or cut where they are larger than all.
        capture: False runs the very same steps without capturing.
    """

    def __init__(
        self, batch_sizes: Sequence[int] = BATCH_SIZES, capture: bool = True
    ) -> None:
        if not batch_sizes or min(batch_sizes) < 1:
            raise ValueError(
                f'batch_sizes must be positive numbers, got {batch_sizes}'
            )
        self.batch_sizes = sorted(set(batch_sizes))
        # one memory for all graphs: what they give is copied at once
        self.pool = torch.cuda.graph_pool_handle() if capture else None
        self.captured: dict[tuple, Captured] = {}

    # tensors made in inference mode could not be filled outside of it
    @torch.inference_mode(False)
    @torch.no_grad()
    def __call__(
        self, run: Callable[..., Encoded], x: Tensor, *options: object
    ) -> Encoded:
        """Run ``run(x, *options)``.

        Args:
            run: ``VimEncoder.run_blocks``.
            x: (B, L, C).
            options: Hashable; each set of them is a graph of its own, as
                each stage is.
        """
        largest = self.batch_sizes[-1]
        if len(x) > largest:
            parts = [self(run, part, *options) for part in x.split(largest)]
            return _joined(parts)
        bucket = next(size for size in self.batch_sizes if size >= len(x))
        key = bucket, x.shape[1], x.dtype, _autocast_dtype(x), options
        if key not in self.captured:
            tokens = torch.zeros_like(x[:1]).repeat(bucket, 1, 1)
            self.captured[key] = self._make(run, tokens, options)
        tokens, replay = self.captured[key]
        tokens[: len(x)].copy_(x)
        # the next replay writes to the same memory
        return _mapped(replay(), lambda t: t[: len(x)].clone())

    def _make(
        self, run: Callable[..., Encoded], tokens: Tensor, options: tuple
    ) -> Captured:
        def call() -> Encoded:
            return run(tokens, *options)

        if self.pool is None:
            return Captured(tokens, call)
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        # casts kept by autocast would be gone when the graph is replayed
        with _autocast_without_cache(tokens):
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    call()
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph, pool=self.pool):
                out = call()

        def replay() -> Encoded:
            graph.replay()
            return out

        return Captured(tokens, replay)


@contextmanager
def cuda_graphs(
    backbone: VimEncoder,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    capture: bool = True,
) -> Iterator[EncoderGraphs]:
    """Replay the backbone's stages as CUDA graphs inside the ``with`` block.

    Only passes in evaluation mode without gradients. Weights may change in
    place in between; a model that moves needs a new block.

    Args:
        backbone: A backbone on a GPU.
        batch_sizes: See :class:`EncoderGraphs`.
        capture: False runs the same steps without capturing, also on CPU.

    Raises:
        RuntimeError: the backbone is not on a GPU.

    Examples:
        >>> with torch.no_grad(), cuda_graphs(backbone):
        ...     for images in loader:
        ...         maps = backbone(images)
    """
    device = backbone.cls_token.device
    if capture and device.type != 'cuda':
        raise RuntimeError(
            f'CUDA graphs need a GPU, and the backbone is on {device}; move '
            'it there, or pass capture=False to run the same steps without'
        )
    before = backbone.graphs
    backbone.graphs = EncoderGraphs(batch_sizes, capture)
    try:
        yield backbone.graphs
    finally:
        backbone.graphs = before


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    kind = x.device.type
    return (
        torch.get_autocast_dtype(kind)
        if torch.is_autocast_enabled(kind)
        else None
    )


def _autocast_without_cache(x: Tensor) -> torch.autocast:
    dtype = _autocast_dtype(x)
    return torch.autocast(
        x.device.type, dtype, enabled=dtype is not None, cache_enabled=False
    )


def _mapped(encoded: Encoded, change: Callable[[Tensor], Tensor]) -> Encoded:
    """The same with ``change`` applied to every tensor."""
    levels, last, importance = encoded
    return Encoded(
        tuple(map(change, levels)),
        change(last),
        None if importance is None else change(importance),
    )


def _joined(parts: Sequence[Encoded]) -> Encoded:
    """Batches of one call, put together."""
    levels, last, importance = zip(*parts, strict=True)
    return Encoded(
        tuple(map(torch.cat, zip(*levels, strict=True))),
        torch.cat(last),
        None if importance[0] is None else torch.cat(importance),
    )

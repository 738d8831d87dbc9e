"""CUDA graphs of a stack of blocks, for inference.

A block is some twenty launches, and on a fast GPU Python needs longer for
them than their kernels run: a pass over a quarter of the tokens would take as
long as one over all. A graph launches all blocks at once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .graph_keys import layout_of, surroundings, watched

Outputs = tuple[Tensor | None, ...]
Run = Callable[[Tensor], Outputs]

MAX_GRAPHS = 16  # kept at a time; those that were not used longest go first
MAX_SEEN = 16  # shapes without one that are remembered, the latest
ROWS = 8  # larger batches are rounded up to a multiple of it


class Recorded(NamedTuple):
    """A graph, with the tensors that it reads and writes."""

    replay: Callable[[], None]
    x: Tensor
    outputs: Outputs


# one at a time: all captures on a GPU share a stream
_CAPTURE = threading.Lock()


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of all captures: cuBLAS keeps 32 MiB for each it has seen."""
    return torch.cuda.Stream(device)


class Recorder:
    """Captures CUDA graphs that share the memory between their ends.

    They must be replayed in one stream, one after the other.

    Args:
        device: GPU of the tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = _capture_stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run, x: Tensor) -> Recorded:
        """Capture ``run`` of ``x``, which the graph reads from then on.

        Args:
            run: Function of tokens, without synchronisation with the host.
            x: Tokens, (B, L, C).
        """
        kind, graph = x.device.type, torch.cuda.CUDAGraph()
        # casts that autocast caches outside of the graph would be freed
        precision = torch.autocast(
            kind,
            torch.get_autocast_dtype(kind),
            torch.is_autocast_enabled(kind),
            cache_enabled=False,
        )
        with _CAPTURE, torch.cuda.device(x.device), precision:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                run(x)  # what is made at a first call is made before
            torch.cuda.current_stream().wait_stream(self.stream)
            with torch.cuda.graph(
                graph, self.pool, self.stream, 'thread_local'
            ):
                outputs = run(x)
        return Recorded(graph.replay, x, outputs)


class BlockGraphs:
    """Runs a stack of blocks, by graphs for the shapes that come again.

    Batches of more than :data:`ROWS` images are filled up with zeros to a
    multiple of it, as early exits leave another number every time. A shape
    is recorded when it comes again before :data:`MAX_SEEN` others did:
    recording takes longer than the few passes that a rare one would save.

    A graph reads the weights where they lie and repeats the kernels that
    were recorded. So one is used only while nothing else could have changed:
    the same modules, whose weights, buffers and attributes are what and where
    they were, none in training and none with hooks, the same scan backend and
    autocast. Of an attribute that is an object only another one is noticed.
    """

    def __init__(self) -> None:
        self._graphs: OrderedDict[Hashable, Recorded] = OrderedDict()
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._recorders: dict[Hashable, Recorder] = {}
        self._layout: list | None = None
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict) -> BlockGraphs:
        return BlockGraphs()

    def __reduce__(self) -> tuple:
        return BlockGraphs, ()

    def __len__(self) -> int:
        return len(self._graphs)

    def clear(self) -> None:
        """Forget all graphs, and free what they hold."""
        with self._lock:
            self._forget(None)

    def _forget(self, layout: list | None) -> None:
        self._graphs.clear()
        self._seen.clear()
        self._recorders.clear()
        self._layout = layout

    def recordable(self, x: Tensor) -> bool:
        """Whether the device of ``x`` has graphs, and none is being made."""
        if not x.is_cuda:
            return False
        with torch.cuda.device(x.device):
            return not torch.cuda.is_current_stream_capturing()

    def __call__(
        self,
        run: Run,
        layers: nn.Module,
        x: Tensor,
        settings: Hashable = None,
    ) -> Outputs:
        """Call ``run``, or replay it.

        Args:
            run: Function of the tokens that runs the blocks; its outputs are
                (B, ...) or None.
            layers: Blocks that it runs, or a module of them.
            x: Tokens, (B, L, C).
            settings: What else decides about what ``run`` does.

        Returns:
            What ``run`` returns, in memory of its own.

        Raises:
            RuntimeError: it waits for the GPU, which no graph can.
        """
        usable = not watched() and self.recordable(x)
        layout = layout_of(layers) if usable else None
        if layout is None or not x.numel():
            return run(x)
        with self._lock:
            if layout != self._layout:
                self._forget(layout)
            return self._answer(run, x, settings)

    def recorder(self, x: Tensor) -> Recorder:
        """What makes the graphs that are replayed where ``x`` is now."""
        place = x.device, torch.cuda.current_stream(x.device).cuda_stream
        if place not in self._recorders:
            self._recorders[place] = Recorder(x.device)
        return self._recorders[place]

    def _answer(self, run: Run, x: Tensor, settings: Hashable) -> Outputs:
        rows = rounded_rows(len(x))
        key = settings, rows, x.shape[1:], *surroundings(x)
        graph = self._graphs.get(key)
        if graph is None:
            if not self._came_again(key):
                return run(x)
            graph = self._graphs[key] = self._recorded(run, x, rows)
            if len(self._graphs) > MAX_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        graph.x[: len(x)].copy_(x)
        graph.replay()
        copies: dict[int, Tensor] = {}
        for out in graph.outputs:
            if out is not None and id(out) not in copies:
                copies[id(out)] = out[: len(x)].clone()
        return tuple(copies.get(id(out)) for out in graph.outputs)

    def _came_again(self, key: Hashable) -> bool:
        if key in self._seen:
            del self._seen[key]
            return True
        self._seen[key] = None
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        return False

    def _recorded(self, run: Run, x: Tensor, rows: int) -> Recorded:
        filled = x.new_zeros(rows, *x.shape[1:])
        try:
            return self.recorder(x)(run, filled)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RuntimeError(
                'the blocks cannot be captured as a CUDA graph: they may do '
                'nothing that waits for the GPU; set cuda_graphs=False in '
                f"the backbone's config ({error})"
            ) from error


def rounded_rows(number: int) -> int:
    """Images that a batch is filled up to."""
    return number if number <= ROWS else -(-number // ROWS) * ROWS

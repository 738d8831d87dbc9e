"""What autograd keeps for the backward pass, measured on the CPU.

A forward pass of the config's own model, every storage that autograd saves
counted once. The operators of CPUs save what Triton's save on GPUs: the
inputs of scan, convolution and norm, and the state before every 32 tokens in
float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from mmscope.models.early_exit import BATCH_NORMS

from .batches import noise_batch, total_loss


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd keeps for the backward pass.

    Attributes:
        fixed: Of a step, whatever its batch: casts of weights.
        per_image: Of every image.
        recomputed: Of every image, of the one block that is recomputed at a
            time with activation checkpointing.
    """

    fixed: float
    per_image: float
    recomputed: float = 0.0

    def of(self, batch: int) -> float:
        """Bytes of a batch."""
        return self.fixed + batch * (self.per_image + self.recomputed)


class SavedBytes:
    """Counts what autograd saves in a block, each storage once.

    Storages of the model's own parameters and buffers are left out. Nothing
    is really kept, so that a forward pass takes little memory, and a backward
    pass through it is not possible.

    Args:
        model: Model whose weights are there anyway.
    """

    def __init__(self, model: nn.Module) -> None:
        own = [*model.parameters(), *model.buffers()]
        self._own = {StorageWeakRef(t.untyped_storage()) for t in own}
        # a reference that is kept lets no other storage take its place
        self._sizes: dict[StorageWeakRef, int] = {}

    @property
    def total(self) -> int:
        """Bytes so far."""
        return sum(self._sizes.values())

    def _pack(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        if reference not in self._own:
            self._sizes.setdefault(reference, storage.nbytes())

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is saved inside the block."""
        hooks = torch.autograd.graph.saved_tensors_hooks
        with hooks(self._pack, _refuse):
            yield


def _refuse(_: None) -> Tensor:
    raise RuntimeError('saved tensors were counted, and not kept')


@contextmanager
def _single_values(model: nn.Module) -> Iterator[None]:
    """Let BatchNorm take one value of a channel, which training refuses.

    Pooled to one pixel, a batch of 1 has no more. Such a layer runs as in
    inference, inside the block.
    """
    changed = []

    def settle(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if layer.training and x.numel() == x.shape[1]:
            layer.training = False
            changed.append(layer)

    norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS)]
    handles = [m.register_forward_pre_hook(settle) for m in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer in changed:
            layer.training = True


@contextmanager
def _float32_regions(model: nn.Module) -> Iterator[None]:
    """Let detectors cut regions out of float32, inside the block.

    mmcv's operators on CPUs know no bfloat16. What neck and first head give
    is cast for them, which counts a few percent more than a GPU keeps.
    """
    parts = []
    if any(hasattr(model, name) for name in ('rpn_head', 'bbox_head')):
        names = ('neck', 'rpn_head', 'bbox_head')
        parts = [getattr(model, name, None) for name in names]
    handles = [
        part.register_forward_hook(lambda *args: _as_float32(args[-1]))
        for part in parts
        if isinstance(part, nn.Module)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _as_float32(value: object) -> object:
    """Tensors of half precision in a value, cast."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(_as_float32(one) for one in value)
    return value


def saved_bytes(cfg: Config, model: nn.Module, batch: int, amp: bool) -> int:
    """Count what the forward pass of a training step keeps.

    Args:
        cfg: Complete config.
        model: Model of the config, on the CPU, in training.
        batch: Images.
        amp: Whether it runs in mixed precision, in bfloat16.
    """
    data = noise_batch(cfg, model, batch)
    counter = SavedBytes(model)
    with (
        _single_values(model),
        _float32_regions(model),
        counter.counting(),
        torch.autocast('cpu', torch.bfloat16, enabled=amp),
    ):
        total_loss(model(**data, mode='loss'))
    return counter.total


def measure_activations(
    cfg: Config,
    model: nn.Module,
    amp: bool,
    tell: Callable[[str], None] = lambda text: None,
) -> Activations:
    """Measure what batches of 1 and 2 keep; in between lies an image.

    Args:
        cfg: Complete config.
        model: Model of the config, on the CPU, in training.
        amp: Whether it runs in mixed precision.
        tell: Called with what is done next.
    """
    sizes = []
    for batch in (1, 2):
        tell(f'what autograd saves of {batch} image{"s"[: batch - 1]}')
        sizes.append(saved_bytes(cfg, model, batch, amp))
    one, two = sizes
    return Activations(max(0, 2 * one - two), two - one)


def checkpointed(
    cfg: Config,
    model: nn.Module,
    amp: bool,
    plain: Activations | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Activations | None:
    """What is kept with activation checkpointing of the backbone.

    One of its blocks is recomputed at a time, and is then there as a whole:
    the blocks are taken to be alike, and to be four where nothing lists them.

    Args:
        cfg: Complete config.
        model: Model of the config; its backbone is left as it was.
        amp: Whether it runs in mixed precision.
        plain: What is kept without; measured if it is not given.
        tell: Called with what is done next.

    Returns:
        None where the backbone has no ``with_cp``.
    """
    parts = [m for m in model.backbone.modules() if hasattr(m, 'with_cp')]
    if not parts:
        return None
    before = [part.with_cp for part in parts]

    def switch(values: list[bool]) -> None:
        for part, value in zip(parts, values, strict=True):
            part.with_cp = value

    try:
        if plain is None:
            switch([False] * len(parts))
            plain = measure_activations(cfg, model, amp, tell)
        switch([True] * len(parts))
        kept = measure_activations(cfg, model, amp, tell)
    finally:
        switch(before)
    blocks = len(getattr(model.backbone, 'layers', range(4)))
    saved = max(0.0, plain.per_image - kept.per_image)
    return Activations(kept.fixed, kept.per_image, saved / blocks)


def uses_checkpoints(model: nn.Module) -> bool:
    """Whether the config asks for activation checkpointing."""
    return any(getattr(m, 'with_cp', False) for m in model.backbone.modules())

"""Refine the hard images of several batches together."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .mambascope import MambaScopeBackbone
from .stages import CoarseStage, FineStage, Look

# names, images, coarse stage and valid cells of some hard images
Part = tuple[Tensor, Tensor, CoarseStage, Tensor | None]


class FineQueue:
    """Collect hard images until there are enough for one fine pass.

    For throughput: the fine pass always runs on ``bucket`` images, which
    fills a device and is a single shape to compile, while an image may wait
    for those of later batches. All images have one padded size.

    Args:
        net: Backbone in evaluation mode.
        bucket: Images of a fine pass.

    Examples:
        >>> net = MambaScopeBackbone('tiny', eta=0.7).eval()
        >>> queue = FineQueue(net, bucket=4)
        >>> look = net.look(torch.rand(8, 3, 64, 64))
        >>> for names, fine in queue.push(look, names=torch.arange(8)):
        ...     assert len(names) == len(fine.maps[0]) == 4
    """

    def __init__(self, net: MambaScopeBackbone, bucket: int) -> None:
        if bucket < 1:
            raise ValueError(f'bucket must be at least 1, got {bucket}')
        self.net, self.bucket = net, bucket
        self._parts: list[Part] = []

    def push(
        self, look: Look, names: Tensor
    ) -> list[tuple[Tensor, FineStage]]:
        """Add the hard images of a batch, and refine full buckets.

        Args:
            look: The batch after its coarse pass.
            names: What the caller knows its images by, (B,).

        Returns:
            For each fine pass, the names of its images and the result.
        """
        if len(look.hard):
            images, coarse, valid = look.to_refine()
            # the fine pass reads no coarse maps
            coarse = coarse._replace(maps=())
            self._parts.append((names[look.hard], images, coarse, valid))
        waiting = sum(len(part[0]) for part in self._parts)
        if waiting < self.bucket:
            return []
        joined = _join(self._parts)
        full = waiting - waiting % self.bucket
        self._parts = [_rows(joined, full, waiting)] if full < waiting else []
        return [
            self._refine(_rows(joined, start, start + self.bucket))
            for start in range(0, full, self.bucket)
        ]

    def flush(self) -> list[tuple[Tensor, FineStage]]:
        """Refine what is left, fewer images than a bucket holds."""
        parts, self._parts = self._parts, []
        return [self._refine(_join(parts))] if parts else []

    def _refine(self, part: Part) -> tuple[Tensor, FineStage]:
        names, *rest = part
        return names, self.net.encode_fine(*rest)


def _rows(part: Part, start: int, stop: int) -> Part:
    names, images, coarse, valid = part
    rows = slice(start, stop)
    index = torch.arange(start, stop, device=names.device)
    valid = valid if valid is None else valid[rows]
    return names[rows], images[rows], coarse.rows(index), valid


def _join(parts: Sequence[Part]) -> Part:
    names, images, coarse, valid = zip(*parts, strict=True)
    joined = CoarseStage(*map(_concatenate, zip(*coarse, strict=True)))
    return torch.cat(names), torch.cat(images), joined, _concatenate(valid)


def _concatenate(values: Sequence) -> Tensor | tuple | None:
    """Join tensors; what none of the parts has stays as it is."""
    return torch.cat(values) if torch.is_tensor(values[0]) else values[0]

"""How fast MambaScope could be, beside the plain Vim of the same run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from mmscope.functional import num_selected
from mmscope.utils.flops import Size, padded

from .cases import FpsRecord
from .models import BenchModel


def speed_bound(
    coarse: float,
    fine: float,
    head: float,
    exit_rate: float,
    refined_tail: float,
    exited_tail: float,
) -> float:
    """How many times as fast as Vim MambaScope can be.

    All in units of the time of Vim's backbone, if that goes with its tokens.

    Args:
        coarse: Coarse pass, c.
        fine: Fine pass, f.
        head: Neck and head behind Vim, h.
        exit_rate: Share of images that exit, p.
        refined_tail: Neck and head of a refined image: h, but for padding.
        exited_tail: Neck and head of an exited image: the same where it is
            decoded at stride 16, a quarter at stride 32.
    """
    tail = exit_rate * exited_tail + (1 - exit_rate) * refined_tail
    return (1 + head) / (coarse + (1 - exit_rate) * fine + tail)


def fine_tokens(net: nn.Module, size: Size) -> int:
    """Tokens of MambaScope's fine pass on an image (H, W), CLS included."""
    stride = 2 * net.patch_size
    coarse = math.prod(padded(size, net.size_divisor)) // stride**2
    return coarse + 3 * num_selected(net.shares[-1], coarse) + 1


def compare(
    records: Sequence[FpsRecord], models: dict[str, BenchModel]
) -> list[FpsRecord]:
    """Fill in what relates to the plain Vim of the same architecture.

    Args:
        records: Measured in turns, at one size and batch size.
        models: By name.
    """
    measured = {
        (r.case.model, r.case.scope): r.time.median
        for r in records
        if r.time is not None and r.exit_rate is None
    }
    vims, officials = (
        [bench for bench in models.values() if getattr(bench, kind)]
        for kind in ('is_vim', 'is_official')
    )
    compared = []
    for record in records:
        bench = models[record.case.model]
        official = _baseline(bench, officials)
        key = (official.name if official else '', record.case.scope)
        if record.time is not None and key in measured:
            ratio = measured[key] / record.time.median
            record = replace(record, vs_official=ratio)
        vim = _baseline(bench, vims)
        key = (vim.name if vim else '', record.case.scope)
        if record.time is None or key not in measured:
            compared.append(record)
            continue
        ratio = measured[key] / record.time.median
        record = replace(record, vs_vim=ratio)
        backbone = measured.get((vim.name, 'backbone'))
        if record.exit_rate is not None and backbone is not None:
            head = measured[key] / backbone - 1
            bound = _bound(record, bench, vim, head)
            record = replace(record, bound=bound, share_of_bound=ratio / bound)
        compared.append(record)
    return compared


def _baseline(
    bench: BenchModel, vims: Sequence[BenchModel]
) -> BenchModel | None:
    """The Vim of the same width, or else the smallest, None without any."""
    same = [vim for vim in vims if vim.channels == bench.channels]
    return min(same or vims, key=lambda vim: vim.channels, default=None)


def _bound(
    record: FpsRecord, bench: BenchModel, vim: BenchModel, head: float
) -> float:
    net, size = bench.net, record.case.size
    own, plain = (
        math.prod(padded(size, n.size_divisor)) // n.patch_size**2
        for n in (net, vim.net)
    )
    head = max(head, 0.0)
    tail = head * own / plain  # padding may differ
    at_coarse = record.case.exit_resolution == 'coarse'
    return speed_bound(
        coarse=(own // 4 + 1) / (plain + 1),
        fine=fine_tokens(net, size) / (plain + 1),
        head=head,
        exit_rate=record.exit_rate,
        refined_tail=tail,
        exited_tail=tail / 4 if at_coarse else tail,
    )

"""How fast MambaScope could be, beside the plain Vim of the same run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from mmscope.functional import num_selected
from mmscope.models import MambaScopeBackbone
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


def count_cells(net: MambaScopeBackbone, size: Size) -> int:
    """Coarse cells of an image (H, W), those of padding included."""
    stride = 2 * net.patch_size
    return math.prod(padded(size, net.size_divisor)) // stride**2


def fine_tokens(net: MambaScopeBackbone, size: Size, number: int) -> int:
    """Tokens of MambaScope's fine pass on an image, CLS included.

    Args:
        net: Backbone.
        size: Image (H, W), before padding.
        number: Cells that are refined.
    """
    others = count_cells(net, size) - number
    if net.unselected == 'drop':
        others = min(net.num_context, others)
    return 4 * number + others + 1


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
    fine = record.fine_tokens
    if fine is None:
        share = record.case.share or net.shares[-1]
        number = num_selected(share, count_cells(net, size))
        fine = fine_tokens(net, size, number)
    own, plain = (
        math.prod(padded(size, n.size_divisor)) // n.patch_size**2
        for n in (net, vim.net)
    )
    head = max(head, 0.0)
    tail = head * own / plain  # padding may differ
    resolution = record.case.exit_resolution or net.exit_resolution
    return speed_bound(
        coarse=(own // 4 + 1) / (plain + 1),
        fine=fine / (plain + 1),
        head=head,
        exit_rate=record.exit_rate,
        refined_tail=tail,
        exited_tail=tail / 4 if resolution == 'coarse' else tail,
    )

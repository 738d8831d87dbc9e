"""Merging tokens: against loops, on any grid, around padding."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmscope.functional.merging import (
    merge_sizes,
    merge_tokens,
    plan_merge,
    window_bounds,
)


def merged_by_loops(metric: Tensor, num: int) -> list[set[int]]:
    """Which tokens of one image become one, in order."""
    unit = F.normalize(metric, dim=-1)
    total = len(metric)
    best = []
    for a in range(0, total, 2):
        alike = [(float(unit[a] @ unit[b]), -b) for b in range(1, total, 2)]
        similarity, b = max(alike)
        best.append((-similarity, a, -b))
    groups = {place: {place} for place in range(total)}
    for _, a, b in sorted(best)[: min(num, total // 2)]:
        groups[b] |= groups.pop(a)
    return [groups[place] for place in sorted(groups)]


@pytest.mark.parametrize(('total', 'num'), [(9, 2), (8, 4), (15, 3), (7, 99)])
def test_it_does_what_loops_do(total, num):
    torch.manual_seed(total)
    metric, x = torch.randn(2, total, 4), torch.randn(2, total, 3)
    sizes = torch.randint(1, 4, (2, total)).float()
    plan = plan_merge(metric, num)
    merged = merge_tokens(x, sizes, plan)
    counts = merge_sizes(sizes, plan)
    assert plan.num_left == total - min(num, total // 2)
    for image in range(2):
        groups = merged_by_loops(metric[image], num)
        assert len(groups) == plan.num_left
        for slot, group in enumerate(groups):
            found = (plan.slots[image] == slot).nonzero().flatten().tolist()
            assert set(found) == group
            weight = sizes[image, found]
            assert counts[image, slot] == weight.sum()
            mean = (x[image, found] * weight[:, None]).sum(0) / weight.sum()
            torch.testing.assert_close(merged[image, slot], mean)


def test_merging_none_leaves_all_as_it_is():
    x = torch.randn(2, 7, 3)
    plan = plan_merge(x, 0)
    assert torch.equal(merge_tokens(x, torch.ones(2, 7), plan), x)
    assert plan.slots.tolist() == [list(range(7))] * 2


def test_padding_merges_last_and_never_with_the_image():
    torch.manual_seed(0)
    metric = torch.randn(3, 16, 4)
    valid = torch.ones(3, 16, dtype=torch.bool)
    valid[1, 10:] = False
    valid[2, 1:] = False
    # all padding is alike
    metric = torch.where(valid[..., None], metric, torch.ones(4))
    for num in (3, 5, 7):
        plan = plan_merge(metric, num, valid)
        for slots, shown in zip(plan.slots, valid, strict=True):
            image, padding = slots[shown].tolist(), slots[~shown].tolist()
            assert not set(image) & set(padding)
        # of ten cells of the image five are sources
        merged = 10 - len(plan.slots[1, :10].unique())
        assert merged == min(num, 5)
        # an image of one cell has nothing to merge with
        assert len(plan.slots[2, :1].unique()) == 1


@pytest.mark.parametrize('total', [1, 2, 7, 64, 65])
@pytest.mark.parametrize('window', [None, 2, 10, 64])
def test_windows_cover_a_sequence_from_even_places(total, window):
    bounds = window_bounds(total, window)
    assert [place for pair in bounds for place in range(*pair)] == [
        *range(total)
    ]
    assert all(start % 2 == 0 for start, _ in bounds)
    if window and total > window:
        assert max(end - start for start, end in bounds) <= window + 2


def test_partners_are_looked_for_within_a_window():
    torch.manual_seed(0)
    metric = torch.randn(2, 32, 4)
    plan = plan_merge(metric, 8, window=8)
    for slots in plan.slots:
        for slot in slots.unique():
            group = (slots == slot).nonzero().flatten()
            assert len({int(place) // 8 for place in group}) == 1

"""How many tokens are kept, and what a scan knows of the others."""

import pytest
import torch

from mmscope.functional.pruning import find_gaps, insert_place, num_kept


@pytest.mark.parametrize(
    ('ratio', 'lengths'),
    [
        # of Vim-S, with CLS: 197, 157, 125, 101
        (0.8, [196, 156, 124, 100]),
        (1.0, [196, 196]),
        (0.7, [196, 138]),
    ],
)
def test_lengths_are_the_papers(ratio, lengths):
    for before, after in zip(lengths, lengths[1:], strict=False):
        kept = num_kept(ratio, before)
        assert kept == after
        assert kept % 2 == 0


def test_tiny_grids_keep_a_token():
    assert [num_kept(0.1, total) for total in (1, 2, 3)] == [1, 2, 2]


def test_gaps_count_what_is_missing_from_either_end():
    places = torch.tensor([[0, 1, 4, 9], [3, 4, 5, 6]])
    gaps = find_gaps(places, 10)
    missing = torch.zeros(16, dtype=torch.long)
    missing[gaps.rows] = gaps.missing.squeeze(1)
    assert missing[:8].tolist() == [0, 0, 2, 4, 0, 0, 0, 0]  # first to last
    assert missing[8:].tolist() == [0, 2, 4, 0, 0, 0, 0, 0]
    assert len({*gaps.rows.tolist()}) == len(gaps.rows) == 12


def test_cls_stands_right_behind_the_first_half():
    places = torch.tensor([[0, 2, 7, 8]])
    assert insert_place(places, 2).tolist() == [[0, 2, 3, 8, 9]]
    assert insert_place(places, 0).tolist() == [[0, 1, 3, 8, 9]]

import pytest
import torch

from mmscope.functional import (
    coarse_to_fine_index,
    num_selected,
    select_tokens,
)


@pytest.mark.parametrize(
    ('alpha', 'num_coarse', 'expected'),
    [
        (0.8, 49, 40),
        (0.55, 100, 55),  # ceil(0.55 * 100) is 56 in floats
        (0.8, 20, 16),
        (0.0, 49, 0),
        (1.0, 49, 49),
        (0.01, 49, 1),
    ],
)
def test_num_selected(alpha, num_coarse, expected) -> None:
    assert num_selected(alpha, num_coarse) == expected


def test_selection_is_spatially_sorted_and_complete() -> None:
    importance = torch.tensor([[0.1, 0.9, 0.3, 0.8, 0.2]])
    selected, unselected = select_tokens(importance, 3)
    assert selected.tolist() == [[1, 2, 3]]
    assert unselected.tolist() == [[0, 4]]


def test_lower_index_wins_a_tie() -> None:
    selected, _ = select_tokens(torch.ones(1, 64), 10)
    assert selected.tolist() == [list(range(10))]


@pytest.mark.parametrize(
    ('num', 'expected'), [(2, [2, 4]), (3, [1, 2, 4]), (4, [0, 1, 2, 4])]
)
def test_padded_cells_come_last(num, expected) -> None:
    importance = torch.tensor([[9.0, 1.0, 2.0, 9.0, 3.0]])
    valid = torch.tensor([[False, True, True, False, True]])
    selected, _ = select_tokens(importance, num, valid)
    assert selected.tolist() == [expected]


def test_fine_cells_of_a_grid_that_is_not_square() -> None:
    # coarse 2 x 3, fine 4 x 6
    index = coarse_to_fine_index(torch.tensor([[0, 2, 4]]), coarse_width=3)
    assert index.tolist() == [[0, 1, 6, 7, 4, 5, 10, 11, 14, 15, 20, 21]]


@pytest.mark.parametrize('grid', [(1, 1), (3, 5), (5, 2)])
def test_every_fine_cell_is_covered_once(grid) -> None:
    height, width = grid
    index = coarse_to_fine_index(torch.arange(height * width)[None], width)
    assert index.sort().values.tolist() == [list(range(4 * height * width))]
    rows, columns = index // (2 * width), index % (2 * width)
    parent = rows // 2 * width + columns // 2
    expected = torch.arange(height * width).repeat_interleave(4)
    assert torch.equal(parent[0], expected)

"""Sequences and maps, with tokens that carry their own ids."""

import pytest
import torch
from torch import Tensor

from mmscope.functional import (
    build_fine_sequence,
    coarse_to_fine_index,
    fine_layout,
    fine_places,
    insert_cls,
    insert_evenly,
    merge_rows,
    split_cls,
    take_tokens,
    to_fine_grid,
    tokens_to_map,
)

# a 3 x 5 coarse grid, of which the cells 1, 7 and 13 are refined; coarse
# cell i has the id 100 + i, the class token -1, a fine cell its position
GRID = (6, 10)
SELECTED = [1, 7, 13]
FINE = [2, 3, 12, 13, 24, 25, 34, 35, 46, 47, 56, 57]
COARSE = [100 + i for i in range(15) if i not in SELECTED]
RASTER = [
    *(100, 2, 3, 102, 103, 104, 12, 13),
    *(105, 106, 24, 25, 108, 109, 34, 35),
    *(110, 111, 112, 46, 47, 114, 56, 57),
]
EXPECTED = {
    ('first', 'important_first'): [-1, *FINE, *COARSE],
    ('middle', 'important_first'): [*FINE[:6], -1, *FINE[6:], *COARSE],
    ('last', 'important_first'): [*FINE, -1, *COARSE],
    ('first', 'important_last'): [*COARSE, -1, *FINE],
    ('middle', 'important_last'): [*COARSE, *FINE[:6], -1, *FINE[6:]],
    ('last', 'important_last'): [*COARSE, *FINE, -1],
    ('first', 'raster'): [-1, *RASTER],
    ('middle', 'raster'): [*RASTER[:12], -1, *RASTER[12:]],
    ('last', 'raster'): [*RASTER, -1],
}


def ids(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1)


def layout_of(cls_position: str, token_order: str):
    fine_index = coarse_to_fine_index(torch.tensor([SELECTED]), 5)
    unselected = torch.tensor([[i - 100 for i in COARSE]])
    return fine_layout(
        fine_index.sort(dim=1).values,
        unselected,
        5,
        cls_position,
        token_order,
    )


@pytest.mark.parametrize(('position', 'order'), EXPECTED)
def test_fine_sequence_equals_the_hand_written_one(position, order) -> None:
    layout = layout_of(position, order)
    assert layout.fine_index.tolist() == [FINE]
    sequence = build_fine_sequence(ids(FINE), ids(COARSE), ids([-1]), layout)
    assert sequence.flatten().tolist() == EXPECTED[position, order]

    _, cls = fine_places(layout)
    assert take_tokens(sequence, cls).flatten().tolist() == [-1]


@pytest.mark.parametrize(('position', 'order'), EXPECTED)
def test_map_returns_every_id_to_its_cell(position, order) -> None:
    layout = layout_of(position, order)
    sequence = build_fine_sequence(ids(FINE), ids(COARSE), ids([-1]), layout)
    cells, _ = fine_places(layout)
    dense = tokens_to_map(take_tokens(sequence, cells), GRID)
    assert dense.shape == (1, 1, *GRID)
    for row in range(6):
        for column in range(10):
            cell, fine = row // 2 * 5 + column // 2, row * 10 + column
            expected = fine if cell in SELECTED else 100 + cell
            assert dense[0, 0, row, column] == expected


def test_each_image_of_a_batch_takes_its_own_tokens() -> None:
    tokens = torch.arange(24.0).view(2, 4, 3)
    taken = take_tokens(tokens, torch.tensor([[3, 0], [1, 1]]))
    assert taken[..., 0].tolist() == [[9, 0], [15, 15]]


@pytest.mark.parametrize('length', [1, 4, 5])
def test_class_token_stands_at_half_and_comes_out_again(length) -> None:
    tokens = torch.arange(float(length)).view(1, -1, 1)
    sequence = insert_cls(tokens, ids([-1]))
    assert sequence[0, length // 2] == -1
    back, cls = split_cls(sequence)
    assert torch.equal(back, tokens)
    assert cls.tolist() == [[-1]]


@pytest.mark.parametrize(
    ('position', 'order', 'message'),
    [
        ('centre', 'raster', "cls_position must be one of .* got 'centre'"),
        ('first', 'random', "token_order must be one of .* got 'random'"),
    ],
)
def test_unknown_choices_are_refused(position, order, message) -> None:
    with pytest.raises(ValueError, match=message):
        layout_of(position, order)


def test_coarse_maps_are_repeated_over_their_cells() -> None:
    (fine,) = to_fine_grid((torch.tensor([[[[1.0, 2.0]]]]),))
    assert fine.tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2]]]]


def test_rows_of_both_parts_return_to_their_places() -> None:
    coarse, fine = torch.tensor([[10.0], [13.0]]), torch.tensor([[21.0]])
    merged = merge_rows(
        torch.tensor([0, 2]), coarse.double(), torch.tensor([1]), fine
    )
    assert merged.tolist() == [[10], [21], [13]]
    assert merged.dtype == torch.float32


@pytest.mark.parametrize(('length', 'num'), [(10, 4), (5, 4), (17, 1)])
def test_more_tokens_stand_evenly_between(length, num) -> None:
    sequence = torch.arange(float(length)).view(1, -1, 1).expand(2, -1, 3)
    extra = -1 - torch.arange(float(num)).view(1, -1, 1).expand(1, -1, 3)
    out, places = insert_evenly(sequence, extra)
    assert torch.equal(out[:, places], sequence)
    found = (out[0, :, 0] < 0).nonzero().flatten()
    assert out[0, found, 0].tolist() == [-1.0 - i for i in range(num)]
    # gaps between them, and to both ends, differ by one at most
    ends = torch.tensor([-1, *found.tolist(), length + num])
    gaps = ends.diff() - 1
    assert gaps.max() - gaps.min() <= 1

import torch

from mmscope.functional import content_mask, valid_cells


def test_content_is_right_of_and_above_the_padding() -> None:
    mask = content_mask([(2, 3), (1, 1)], (2, 4), torch.zeros(1))
    assert mask.tolist() == [
        [[[1, 1, 1, 0], [1, 1, 1, 0]]],
        [[[1, 0, 0, 0], [0, 0, 0, 0]]],
    ]


def test_a_cell_is_valid_if_any_of_its_pixels_is_content() -> None:
    content = content_mask([(3, 2), (2, 5)], (4, 5), torch.zeros(1))
    assert valid_cells(content, 2).tolist() == [
        [[True, False, False], [True, False, False]],
        [[True, True, True], [False, False, False]],
    ]

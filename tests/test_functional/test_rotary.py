"""Rotation by places: against complex numbers, one token at a time."""

import cmath

import pytest
import torch

from mmscope.functional.rotary import rotary_tables, rotate


@pytest.mark.parametrize('grid', [(3, 5), (1, 1), (14, 14)])
def test_channels_turn_as_complex_numbers_do(grid):
    dims = 8
    x = torch.randn(1, grid[0] * grid[1], dims, dtype=torch.float64)
    turned = rotate(x, rotary_tables(grid, dims))[0]
    for place, token in enumerate(x[0]):
        row, column = divmod(place, grid[1])
        for pair in range(dims // 2):
            # the first half of the pairs turns by row
            where = 14 * (row / grid[0] if pair < 2 else column / grid[1])
            angle = where * 10_000 ** (-2 * (pair % 2) / (dims // 2))
            number = complex(*token[2 * pair : 2 * pair + 2].tolist())
            number *= cmath.exp(1j * angle)
            found = complex(*turned[place, 2 * pair : 2 * pair + 2].tolist())
            assert abs(found - number) < 1e-5


def test_products_depend_on_the_distance_alone():
    tables = rotary_tables((6, 6), 16)
    one, other = torch.randn(2, 16)
    grid = rotate(
        torch.stack([one.expand(36, 16), other.expand(36, 16)]), tables
    )
    products = (grid[0][:, None] * grid[1]).sum(-1).view(6, 6, 6, 6)
    torch.testing.assert_close(
        products[0, 1, 2, 3], products[3, 2, 5, 4], rtol=1e-4, atol=1e-4
    )

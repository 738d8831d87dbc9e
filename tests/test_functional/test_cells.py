import torch
import torch.nn.functional as F

from mmscope.functional.cells import cell_means, cell_variance


def test_cell_means_count_content_alone() -> None:
    values = torch.tensor([[[1.0, 3.0, 5.0], [1.0, 3.0, 7.0]]])
    content = torch.tensor([[[[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]]]])
    found = cell_means(values, content, side=2)
    torch.testing.assert_close(found, torch.tensor([[2.0, 6.0]]))


def test_cells_without_content_are_zero() -> None:
    content = torch.ones(1, 1, 4, 4)
    content[..., 2:] = 0
    found = cell_means(torch.full((1, 4, 4), 5.0), content, side=2)
    assert found.tolist() == [[5.0, 0.0, 5.0, 0.0]]


def test_cell_means_resize_other_grids() -> None:
    """Logits of a decode head may be coarser than the image."""
    values = torch.rand(2, 4, 6)
    content = torch.ones(2, 1, 8, 12)
    whole = F.interpolate(values[:, None], (8, 12), mode='bilinear')[:, 0]
    torch.testing.assert_close(
        cell_means(values, content, 4), cell_means(whole, content, 4)
    )


def test_cell_variance_is_that_of_the_pixels_shown() -> None:
    torch.manual_seed(0)
    images = 100 + torch.randn(2, 3, 5, 8)
    content = torch.ones(2, 1, 5, 8)
    content[1, :, :, 6:] = 0
    found = cell_variance(images, content, side=4)
    grey = images.mean(dim=1)
    for image, rows, columns, cell in (
        (0, slice(0, 4), slice(0, 4), 0),
        (0, slice(4, 5), slice(4, 8), 3),
        (1, slice(0, 4), slice(4, 6), 1),
    ):
        pixels = grey[image, rows, columns]
        torch.testing.assert_close(
            found[image, cell], pixels.var(unbiased=False)
        )


def test_half_precision_is_summed_in_float32() -> None:
    values = torch.full((1, 64, 64), 1.0, dtype=torch.bfloat16)
    content = torch.ones(1, 1, 64, 64, dtype=torch.bfloat16)
    found = cell_means(values, content, side=64)
    assert found.dtype == torch.float32
    assert found.item() == 1

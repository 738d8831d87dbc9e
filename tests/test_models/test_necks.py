"""The pyramid from one map."""

import pytest
import torch
from mmcv.cnn import ConvModule
from mmcv.ops import RoIAlign
from torchvision.ops import roi_align

from mmscope.models import LayerNorm2d, SimpleFeaturePyramid
from mmscope.registry import MODELS


@pytest.mark.parametrize('num_outs', [4, 5, 6])
def test_levels_have_the_strides_of_detectors(num_outs: int) -> None:
    neck = SimpleFeaturePyramid(16, 8, num_outs)
    outs = neck((torch.randn(2, 16, 4, 6),))
    shapes = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    assert [tuple(m.shape) for m in outs] == [
        (2, 8, *shape) for shape in shapes[:num_outs]
    ]


def test_odd_maps_keep_their_last_cells() -> None:
    outs = SimpleFeaturePyramid(16, 8)((torch.randn(1, 16, 5, 7),))
    assert [tuple(m.shape[2:]) for m in outs] == [
        (20, 28),
        (10, 14),
        (5, 7),
        (3, 4),
        (2, 2),
    ]


def test_it_reads_the_chosen_map_and_trains_all_parameters() -> None:
    first, last = (torch.randn(1, 16, 4, 4, requires_grad=True) for _ in '12')
    neck = SimpleFeaturePyramid(16, 8, in_index=0)
    sum((m**2).sum() for m in neck((first, last))).backward()
    assert first.grad is not None
    assert last.grad is None
    assert all(p.grad is not None for p in neck.parameters())


def test_levels_are_normalised_over_channels() -> None:
    for level in SimpleFeaturePyramid(16, 8)((torch.randn(1, 16, 4, 4),)):
        mean, std = level.mean(1), level.std(1, unbiased=False)
        torch.testing.assert_close(mean, 0 * mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(std, 0 * std + 1, atol=1e-2, rtol=0)


def test_regions_are_read_where_they_lie() -> None:
    """mmcv's RoIAlign on a CPU misreads maps that are not contiguous."""
    image = torch.randn(1, 8, 6, 9).to(memory_format=torch.channels_last)
    boxes = torch.tensor([[0, 4.0, 8.0, 60.0, 40.0]])
    levels = SimpleFeaturePyramid(8, 4, num_outs=4)((image,))
    for level, stride in zip(levels, (4, 8, 16, 32), strict=True):
        torch.testing.assert_close(
            RoIAlign(7, 1 / stride, 2)(level, boxes),
            roi_align(level, boxes, 7, 1 / stride, 2, aligned=True),
        )


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(in_channels=10), 'multiple of 4, got 10'),
        (dict(in_channels=0), 'multiple of 4, got 0'),
        (dict(in_channels=8, num_outs=3), 'at least 4, .* got 3'),
    ],
)
def test_bad_arguments(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimpleFeaturePyramid(**options)


def test_layer_norm_of_maps_is_that_of_tokens() -> None:
    norm = LayerNorm2d(6)
    norm.weight.data.uniform_(), norm.bias.data.uniform_()
    x = torch.randn(2, 6, 3, 5)
    tokens = x.flatten(2).transpose(1, 2)
    expected = torch.nn.functional.layer_norm(
        tokens, (6,), norm.weight, norm.bias, 1e-6
    )
    torch.testing.assert_close(norm(x).flatten(2).transpose(1, 2), expected)


def test_any_norm_cfg_can_name_the_layer_norm() -> None:
    layer = ConvModule(4, 6, 1, norm_cfg=dict(type='mmscope.LayerNorm2d'))
    assert isinstance(layer.norm, LayerNorm2d)
    assert layer(torch.randn(0, 4, 7, 7)).shape == (0, 6, 7, 7)
    neck = dict(type='mmscope.SimpleFeaturePyramid', in_channels=8)
    assert isinstance(MODELS.build(neck), SimpleFeaturePyramid)

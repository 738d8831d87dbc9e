"""benchmarks/numerics.py on a tiny segmentor."""

import torch

from benchmarks.numerics import errors_by_block


def test_bfloat16_is_near_float32_in_every_block(make_segmentor) -> None:
    model = make_segmentor().eval()
    images = torch.randn(1, 3, 64, 96)
    errors = errors_by_block(model, images, torch.bfloat16)
    blocks = len(model.backbone.layers)
    assert list(errors) == [
        f'pass {number}, block {index}'
        for number in (1, 2)
        for index in range(blocks)
    ]
    for own, stream in errors.values():
        assert 0 < own < 2e-2
        assert 0 < stream < 5e-2
    # three more bits of mantissa
    half = errors_by_block(model, images, torch.float16)
    assert all(half[name][1] < stream for name, (_, stream) in errors.items())

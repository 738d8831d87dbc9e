"""Training of a learned exit policy."""

import numpy as np
import pytest
import torch
from exit_images import Images, load, picture

from mmscope.exits import collect_answers
from mmscope.exits.router import fit_router, router_inputs, train_router
from mmscope.models import LearnedRouter, exit_settings


@pytest.fixture
def images() -> Images:
    """Of two sizes, which the model groups by size."""
    return Images(
        picture(scale, (96, 64) if i % 3 == 0 else (64, 96))
        for i, scale in enumerate((0.2, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0))
    )


@pytest.fixture
def router() -> LearnedRouter:
    return LearnedRouter(in_channels=32, num_classes=5).eval()


def test_inputs_are_those_that_the_router_gets(
    segmentor, metric, images, router
) -> None:
    """In the order of the images, whatever their sizes."""
    inputs = router_inputs(segmentor, load(images, 3))
    assert inputs.shape == (8, 32 + 5)
    with torch.no_grad():
        expected = router.score(inputs).sigmoid().numpy()
    with exit_settings(segmentor, policy=router):
        seen = collect_answers(segmentor, load(images, 3), metric)['model']
    np.testing.assert_allclose(seen.confidence, expected, atol=1e-5)
    assert np.ptp(expected) > 1e-3


def test_router_learns_what_tells_images_apart(router) -> None:
    inputs = torch.randn(64, 37)
    target = (inputs[:, 3] > 0).float()
    train_router(router, inputs, target)
    with torch.no_grad():
        right = (router.score(inputs) > 0) == target.bool()
    assert right.float().mean() > 0.9
    assert not any(p.requires_grad for p in router.parameters())


def test_router_needs_something_to_tell_apart(
    segmentor, metric, images, router
) -> None:
    with pytest.raises(ValueError, match='8 of 8 coarse answers .* tolerance'):
        fit_router(segmentor, router, load(images), metric, 1000.0)
    segmentor.test_cfg.update(
        mode='slide', crop_size=(64, 96), stride=(32, 48)
    )
    with pytest.raises(ValueError, match='test_cfg.mode=whole'):
        fit_router(segmentor, router, load(images), metric, 5.0)

"""The cascade with a single mask head."""

import pytest
import torch
from detectors import build, cascade_config, make_sample, predict, varied
from mmengine.structures import InstanceData
from torch import nn

SHARED = dict(roi_head__type='mmscope.SharedMaskCascadeRoIHead')


@pytest.fixture
def both() -> tuple[nn.Module, nn.Module]:
    """Our detector and mmdet's, whose mask heads have the same weights."""
    ours = build(cascade_config(), **SHARED)
    theirs = build(cascade_config())
    weights = {
        name.replace('mask_head.0', f'mask_head.{stage}'): value
        for stage in range(3)
        for name, value in ours.state_dict().items()
    }
    theirs.load_state_dict(weights)
    return ours, theirs


def head_losses(model: nn.Module) -> tuple[dict, list[torch.Tensor]]:
    """Losses of the RoI head, and the maps that they depend on."""
    torch.manual_seed(0)
    maps = [
        torch.randn(1, 16, 16 // scale, 24 // scale, requires_grad=True)
        for scale in (1, 2, 4, 8)
    ]
    sample = make_sample()
    boxes = sample.gt_instances.bboxes
    near = torch.cat([boxes + shift for shift in (-6.0, -2.0, 0.0, 3.0, 9.0)])
    proposals = InstanceData(bboxes=near, scores=torch.ones(len(near)))
    return model.roi_head.loss(tuple(maps), [proposals], [sample]), maps


def test_there_is_one_mask_head(both) -> None:
    ours, _ = both
    names = {
        name.split('.convs')[0]
        for name in ours.state_dict()
        if 'mask_head' in name and '.convs' in name
    }
    assert names == {'roi_head.mask_head.0'}


def test_masks_are_those_of_equal_heads_of_mmdet(both) -> None:
    images = varied(2)
    found = [predict(model, images, eta=1.0) for model in both]
    for ours, theirs in zip(*found, strict=True):
        assert len(ours.pred_instances) > 0
        for key in ('bboxes', 'scores', 'labels', 'masks'):
            torch.testing.assert_close(
                ours.pred_instances[key], theirs.pred_instances[key]
            )


def test_nothing_found_has_no_masks(both) -> None:
    ours, _ = both
    ours.roi_head.test_cfg.score_thr = 2.0
    (sample,) = predict(ours, varied(1), eta=1.0)
    assert sample.pred_instances.masks.shape == (0, 64, 96)


def test_masks_are_learnt_from_the_first_stage(both) -> None:
    (ours, _), (theirs, _) = (head_losses(model) for model in both)
    assert theirs.keys() - ours.keys() == {'s1.loss_mask', 's2.loss_mask'}
    torch.testing.assert_close(ours, {key: theirs[key] for key in ours})


def test_gradients_of_boxes_are_divided_by_the_stages(both) -> None:
    gradients = []
    for model in both:
        losses, maps = head_losses(model)
        sum(
            loss
            for name, loss in losses.items()
            if name.endswith(('loss_cls', 'loss_bbox'))
        ).backward()
        conv = model.roi_head.bbox_head[1].shared_convs[0].conv
        gradients.append([maps[0].grad, conv.weight.grad])
    (ours, weight), (theirs, same) = gradients
    assert theirs.abs().sum() > 0
    torch.testing.assert_close(3 * ours, theirs)
    torch.testing.assert_close(weight, same)


def test_several_mask_heads_are_refused() -> None:
    config = cascade_config()
    with pytest.raises(TypeError, match='takes one config as mask_head, got'):
        build(config, roi_head__mask_head=[{}, {}, {}], **SHARED)

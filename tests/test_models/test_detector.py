"""The detector and its mixin."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from detectors import (
    BACKBONE,
    CLASSES,
    NECKS,
    build,
    cascade_config,
    make_sample,
    predict,
    train_step,
    varied,
)
from mmdet.models import RetinaNet
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.config import ConfigDict
from torch import Tensor, nn

from mmscope.models import ScopeResult, collect_passes
from mmscope.models.detector import (
    DetectorExits,
    half_size_masks,
    half_size_sample,
)
from mmscope.registry import MODELS


@pytest.fixture
def make_detector():
    """Build a tiny Cascade Mask R-CNN."""

    def make(**options: object) -> nn.Module:
        return build(cascade_config(), **options)

    return make


def plain_detector() -> nn.Module:
    """The same detector of mmdet's own class."""
    config = cascade_config()
    del config['coarse_decode_weight']
    return build(config, type='CascadeRCNN')


def neck_options(name: str) -> dict:
    """Options for one of the necks."""
    layers = (3,) if name == 'simple' else (0, 1, 2, 3)
    return dict(neck=copy.deepcopy(NECKS[name]), backbone__out_indices=layers)


def untrained(model: nn.Module) -> list[str]:
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]


@pytest.mark.parametrize('neck', sorted(NECKS))
@pytest.mark.parametrize('resolution', ['fine', 'coarse'])
@pytest.mark.parametrize('weight', [0.0, 0.4])
def test_one_step_trains_every_parameter(
    make_detector, neck, resolution, weight
) -> None:
    model = make_detector(
        **neck_options(neck),
        backbone__exit_resolution=resolution,
        coarse_decode_weight=weight,
    )
    losses = train_step(model)
    assert {'loss_exit', 'loss_consistency', 'loss_rpn_cls'} <= set(losses)
    assert {'s0.loss_bbox', 's2.loss_mask'} <= set(losses)
    coarse = {'coarse_loss_rpn_cls', 'coarse_s0.loss_cls'}
    assert (coarse <= set(losses)) is (weight > 0)
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert untrained(model) == []


@pytest.mark.parametrize('resolution', ['fine', 'coarse'])
def test_images_without_instances_are_legal(make_detector, resolution) -> None:
    model = make_detector(backbone__exit_resolution=resolution)
    samples = [make_sample(boxes=[], labels=[]) for _ in range(2)]
    loss, _ = model.parse_losses(train_step(model, samples=samples))
    loss.backward()
    assert loss.isfinite()
    assert untrained(model) == []
    assert model.exit_target(samples).tolist() == [[0.0] * CLASSES] * 2


def test_exit_target_is_the_classes_of_the_instances(make_detector) -> None:
    samples = [make_sample(labels=[4, 4]), make_sample(labels=[0, 2])]
    assert make_detector().exit_target(samples).tolist() == [
        [0, 0, 0, 0, 1],
        [1, 0, 1, 0, 0],
    ]


def test_loss_weights_scale_their_terms(make_detector) -> None:
    model = make_detector()
    torch.manual_seed(1)
    once = train_step(model)
    model.exit_weight, model.consistency_weight = 3.0, 5.0
    model.coarse_decode_weight = 0.8
    torch.manual_seed(1)
    more = train_step(model)
    for name, factor in (
        ('loss_exit', 3),
        ('loss_consistency', 5),
        ('coarse_s0.loss_cls', 2),
        ('coarse_s0.acc', 1),
        ('s0.loss_cls', 1),
    ):
        torch.testing.assert_close(
            more[name], factor * once[name], rtol=1e-3, atol=1e-5
        )
    for part, other in zip(
        more['coarse_loss_rpn_cls'], once['coarse_loss_rpn_cls'], strict=True
    ):
        torch.testing.assert_close(part, 2 * other)


@pytest.mark.parametrize('resolution', ['fine', 'coarse'])
def test_mixed_batch_equals_each_image_alone(
    make_detector, resolution
) -> None:
    model = make_detector(backbone__exit_resolution=resolution)
    model.backbone.exit_head.fc.weight.data *= 50
    images = varied(6)
    confidence = [p.exit_confidence for p in predict(model, images, 1.0)]
    middle = sorted(confidence)
    eta = (middle[2] + middle[3]) / 2
    together = predict(model, images, eta)
    exits = [p.exited for p in together]
    assert exits == [c >= eta for c in confidence]
    assert 0 < sum(exits) < 6
    for image, sample in zip(images, together, strict=True):
        (alone,) = predict(model, [image], float(not sample.exited))
        assert len(sample.pred_instances) == 10
        for name in ('bboxes', 'scores', 'labels'):
            torch.testing.assert_close(
                sample.pred_instances[name], alone.pred_instances[name]
            )
        same = sample.pred_instances.masks == alone.pred_instances.masks
        # a pixel at the threshold may fall on either side
        assert same.float().mean() > 0.999
        assert sample.exit_confidence == pytest.approx(
            alone.exit_confidence, abs=1e-5
        )


@pytest.mark.parametrize('resolution', ['fine', 'coarse'])
def test_each_image_gets_the_cells_that_it_needs(
    make_detector, resolution
) -> None:
    """By learned scores; several shares in one batch."""
    model = make_detector(
        backbone__alpha=(0.2, 0.5, 1.0),
        backbone__exit_resolution=resolution,
        backbone__cell_score=dict(type='mmscope.LearnedCells'),
    )
    model.backbone.cell_score.linear.weight.data *= 20
    images = varied(6)
    scores = [one.cell_scores for one in predict(model, images, eta=1.0)]
    model.backbone.tau = torch.cat(scores).quantile(0.7).item()
    together = predict(model, images)
    assert len({one.refined_share for one in together}) > 2
    for image, sample in zip(images, together, strict=True):
        (alone,) = predict(model, [image])
        assert sample.refined_share == alone.refined_share
        torch.testing.assert_close(
            sample.pred_instances.scores, alone.pred_instances.scores
        )


def test_learned_cells_are_trained_beside_the_detector(make_detector) -> None:
    model = make_detector(
        backbone__alpha=(0.2, 0.5, 1.0),
        backbone__cell_score=dict(type='mmscope.LearnedCells'),
    )
    losses = train_step(model)
    assert losses['loss_cells'] > 0
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert untrained(model) == []


def test_exited_image_is_detected_as_its_half_size_image(
    make_detector,
) -> None:
    """Our boxes and masks are those of mmdet's detector on that image."""
    model = make_detector()
    image, ori_shape = varied(1)[0], (96, 144)
    (ours,) = predict(model, [image], 0.0, ori_shape)
    assert ours.exited
    assert (ours.img_shape, ours.scale_factor) == ((64, 96), (2 / 3, 2 / 3))
    # the data preprocessor swaps channels
    result = model.backbone.scope(image[None].flip(1), eta=0.0)
    plain = plain_detector()
    plain.load_state_dict(model.state_dict())
    plain.backbone.forward = lambda _: result.coarse_features
    half = nn.functional.avg_pool2d(image, 2)
    (theirs,) = predict(plain, [half], ori_shape=ori_shape)
    assert len(ours.pred_instances) == 10
    for name in ('bboxes', 'scores', 'labels', 'masks'):
        torch.testing.assert_close(
            ours.pred_instances[name], theirs.pred_instances[name]
        )
    assert ours.pred_instances.masks.shape[1:] == ori_shape


@MODELS.register_module(force=True)
class TinyScopeRetinaNet(DetectorExits, RetinaNet):
    """A detector of one stage, made as the documentation says."""


def retina_config(**options: object) -> ConfigDict:
    return ConfigDict(
        type='mmscope.TinyScopeRetinaNet',
        data_preprocessor=dict(
            type='DetDataPreprocessor', pad_size_divisor=32
        ),
        backbone=copy.deepcopy(BACKBONE),
        neck=copy.deepcopy(NECKS['simple']),
        bbox_head=dict(
            type='RetinaHead',
            num_classes=CLASSES,
            in_channels=16,
            stacked_convs=1,
            feat_channels=16,
            anchor_generator=dict(
                type='AnchorGenerator',
                scales=[4],
                ratios=[1.0],
                strides=[4, 8, 16, 32, 64],
            ),
        ),
        train_cfg=dict(
            assigner=dict(
                type='MaxIoUAssigner',
                pos_iou_thr=0.5,
                neg_iou_thr=0.4,
                min_pos_iou=0,
            ),
            sampler=dict(type='PseudoSampler'),
            allowed_border=-1,
            pos_weight=-1,
        ),
        test_cfg=dict(
            nms_pre=100,
            score_thr=0.0,
            nms=dict(type='nms', iou_threshold=0.5),
            max_per_img=5,
        ),
        **options,
    )


@pytest.mark.parametrize('resolution', ['fine', 'coarse'])
def test_mixin_serves_a_detector_of_one_stage(resolution) -> None:
    model = build(
        retina_config(coarse_decode_weight=0.4),
        backbone__exit_resolution=resolution,
    )
    losses = train_step(model)
    assert {'loss_cls', 'coarse_loss_bbox', 'loss_exit'} <= set(losses)
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert untrained(model) == []
    model.eval()
    for eta in (0.0, 1.0):
        samples = predict(model, varied(2), eta)
        assert [s.exited for s in samples] == [eta == 0] * 2
        assert all(len(s.pred_instances) == 5 for s in samples)


class BrightestCell(nn.Module):
    """Finds what is bright: the score of an anchor is its cell's value."""

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[list, list]:
        scores = [
            m.mean(1, keepdim=True).repeat(1, CLASSES, 1, 1) for m in maps
        ]
        return scores, [m.new_zeros(len(m), 4, *m.shape[2:]) for m in maps]


@pytest.mark.parametrize('width', [160, 150])
def test_boxes_of_coarse_and_fine_answers_agree(width) -> None:
    """Both passes put a bright square where the original image has it.

    The backbone is replaced by the mean brightness of the cells, and the
    head by one that gives the anchors around the brightest cell.
    """
    model = build(retina_config())
    head = model.bbox_head
    head.forward = BrightestCell().forward
    head.prior_generator = head.prior_generator.__class__(
        strides=[16], scales=[2], ratios=[1.0]
    )
    model.neck = nn.Identity()
    head.test_cfg.max_per_img = 1
    scope = model.backbone.scope

    def brightness(x: Tensor) -> ScopeResult:
        both = scope(x)
        cells = (nn.functional.avg_pool2d(x, side) for side in (16, 32))
        fine, coarse = ((m.mean(1, keepdim=True),) for m in cells)
        return replace(
            both,
            coarse=both.coarse._replace(maps=coarse),
            fine=both.fine and both.fine._replace(maps=fine),
        )

    model.backbone.scope = brightness
    image = torch.full((3, 96, width), -3.0)
    image[:, 32:64, 64:96] = 3.0
    image[:, 32:48, 64:80] = 3.1
    ori_shape = (192, 2 * width)
    centres = []
    for eta in (1.0, 0.0):
        (sample,) = predict(model, [image], eta, ori_shape)
        left, top, right, bottom = sample.pred_instances.bboxes[0].tolist()
        centres.append(((left + right) / 2, (top + bottom) / 2))
        # an anchor of two cells, of the half-size image if it has exited
        side = 64 if eta else 128
        assert (right - left, bottom - top) == (side, side)
    # mmdet's anchors sit on the corners of the cells
    assert centres == [(128, 64)] * 2


def test_boxes_end_within_odd_images(make_detector) -> None:
    """The half pixel that halving adds is outside of the image."""
    model = make_detector()
    # of many boxes some reach the border, whatever the weights
    model.rpn_head.test_cfg.max_per_img = 200
    model.roi_head.test_cfg.max_per_img = 200
    (sample,) = predict(model, [4 * torch.randn(3, 61, 93)], 0.0, (61, 93))
    boxes = sample.pred_instances.bboxes
    # boxes reach the border of what was halved; rounded up it were 94 x 62
    assert 91.5 < boxes[:, 2].max() <= 92
    assert boxes[:, 3].max() <= 60


def test_results_can_fit_the_network_input(make_detector) -> None:
    model = make_detector(backbone__eta=0.0)
    images = torch.stack(varied(1))
    results = []
    for rescale in (True, False):
        sample = make_sample(ori_shape=(128, 192))
        with torch.no_grad():
            (sample,) = model.predict(images, [sample], rescale=rescale)
        results.append(sample.pred_instances)
    original, network = results
    torch.testing.assert_close(network.bboxes, original.bboxes / 2)
    assert network.masks.shape[1:] == (64, 96)
    smaller = original.masks[:, ::2, ::2]
    assert (smaller == network.masks).float().mean() > 0.95


@pytest.mark.parametrize('size', [(64, 96), (61, 93)])
def test_the_half_size_image_costs_nothing(make_detector, size) -> None:
    """Its maps are given: only the size of it is looked at."""
    model = make_detector(backbone__eta=0.0)
    images = torch.stack(varied(1, size))
    sample = make_sample(size)
    seen = []
    model.extract_feat = lambda inputs: (
        seen.append(inputs) or type(model).extract_feat(model, inputs)
    )
    with torch.no_grad():
        maps = model.backbone.scope(images).coarse.maps
        model._detect_half_size(images, maps, [sample], rescale=True)
    (half,) = seen
    assert half.shape[2:] == tuple(-(-side // 2) for side in size)
    assert half.data_ptr() == images.data_ptr()


def test_half_size_sample_halves_everything_and_changes_nothing() -> None:
    sample = make_sample((61, 96), [[10, 20, 30, 41]], [2], (122, 192))
    sample.set_metainfo(dict(batch_input_shape=(64, 96), pad_shape=(64, 96)))
    sample.ignored_instances.bboxes = torch.tensor([[0.0, 2.0, 5.0, 9.0]])
    before = copy.deepcopy(sample)
    half = half_size_sample(sample)
    assert half.img_shape == (30, 48)
    assert half.batch_input_shape == half.pad_shape == (32, 48)
    assert half.scale_factor == (0.25, 0.25)
    assert half.ori_shape == (122, 192)
    assert half.gt_instances.bboxes.tolist() == [[5, 10, 15, 20.5]]
    assert half.gt_instances.labels.tolist() == [2]
    assert half.gt_instances.masks.masks.shape == (1, 31, 48)
    assert half.ignored_instances.bboxes.tolist() == [[0, 1, 2.5, 4.5]]
    assert sample.metainfo == before.metainfo
    assert torch.equal(sample.gt_instances.bboxes, before.gt_instances.bboxes)
    assert np.array_equal(
        sample.gt_instances.masks.masks, before.gt_instances.masks.masks
    )


def test_masks_are_halved_without_a_shift() -> None:
    mask = np.zeros((1, 5, 6), np.uint8)
    mask[0, 1:, 2:4] = 1
    mask[0, 0, 0] = 1  # a quarter of a pixel is too little
    assert half_size_masks(BitmapMasks(mask, 5, 6)).masks.tolist() == [
        [[0, 1, 0], [0, 1, 0], [0, 1, 0]]
    ]
    outline = np.array([2.0, 1.0, 4.0, 1.0, 4.0, 5.0, 2.0, 5.0])
    halved = half_size_masks(PolygonMasks([[outline]], 5, 6))
    assert (halved.height, halved.width) == (3, 3)
    assert halved.masks[0][0].tolist() == [1, 0.5, 2, 0.5, 2, 2.5, 1, 2.5]
    nothing = half_size_masks(BitmapMasks(np.zeros((0, 5, 6), np.uint8), 5, 6))
    assert nothing.masks.shape == (0, 3, 3)


def test_coarse_loss_is_the_loss_of_the_half_size_image(make_detector) -> None:
    model = make_detector(coarse_decode_weight=1.0)
    plain = plain_detector().train()
    plain.load_state_dict(model.state_dict())
    images, sample = torch.stack(varied(1)), make_sample()
    sample.set_metainfo(dict(batch_input_shape=(64, 96), pad_shape=(64, 96)))
    result = model.backbone.scope(images)
    torch.manual_seed(2)
    ours = model._coarse_loss(images, result, [sample])
    halved = make_sample(
        (32, 48), [[4, 4, 20, 20], [25, 10, 45, 30]], ori_shape=(64, 96)
    )
    halved.set_metainfo(dict(batch_input_shape=(32, 48), pad_shape=(32, 48)))
    plain.backbone.forward = lambda _: result.coarse_features
    torch.manual_seed(2)
    theirs = plain.loss(images, [halved])
    assert set(ours) == {f'coarse_{name}' for name in theirs}
    for name, value in theirs.items():
        torch.testing.assert_close(ours[f'coarse_{name}'], value)


def test_coarse_loss_leaves_batch_norm_alone(make_detector) -> None:
    model = make_detector(**neck_options('fpn')).train()
    before = copy.deepcopy(model.state_dict())
    sample = make_sample()
    sample.set_metainfo(dict(batch_input_shape=(64, 96), pad_shape=(64, 96)))
    images = torch.stack(varied(1))
    model._coarse_loss(images, model.backbone.scope(images), [sample])
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], msg=name)
    assert all(m.training for m in model.neck.modules())


def test_padding_is_selected_last(make_detector) -> None:
    """Of a canvas of 2 x 3 coarse cells, images cover some."""
    model = make_detector(backbone__alpha=0.5)
    model.train()
    sizes = [(20, 20), (30, 70), (64, 96), (64, 40)]
    with collect_passes(model) as passes:
        train_step(
            model,
            [torch.randn(3, *size) for size in sizes],
            [make_sample(size, [[2, 2, 18, 18]], [1]) for size in sizes],
        )
    ((valid, selected),) = ((p.valid, p.selected) for p in passes)
    assert valid.tolist() == [
        [True, False, False, False, False, False],
        [True, True, True, False, False, False],
        [True] * 6,
        [True, True, False, True, True, False],
    ]
    assert selected.shape == (4, 3)
    for cells, chosen in zip(valid, selected, strict=True):
        assert len(set(chosen.tolist())) == 3
        inside = cells[chosen].sum()
        # all valid ones if they are at most k, else no other
        assert inside == min(3, cells.sum())


@pytest.mark.parametrize('neck', sorted(NECKS))
def test_coarse_grids_may_have_odd_sides(make_detector, neck) -> None:
    """Of 3 x 5 cells, as an image of 96 x 160 has."""
    model = make_detector(**neck_options(neck))
    (sample,) = predict(model, varied(1, (96, 160)), 0.0)
    assert sample.exited
    assert sample.pred_instances.masks.shape == (10, 96, 160)


def test_detector_without_boxes_is_refused(make_detector) -> None:
    with pytest.raises(TypeError, match='has no bbox_head or roi_head'):
        make_detector(roi_head=None)


def test_alone_it_runs_the_backbone_itself(make_detector) -> None:
    model = make_detector()
    images = torch.stack(varied(1))
    with torch.no_grad():
        maps = model.extract_feat(images)
    assert [tuple(m.shape[2:]) for m in maps] == [
        (16, 24),
        (8, 12),
        (4, 6),
        (2, 3),
        (1, 2),
    ]


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(exit_weight=-1.0), ValueError, 'exit_weight must not be neg'),
        (dict(consistency='kl'), ValueError, "consistency must .* got 'kl'"),
        (dict(exit_wait=1.0), TypeError, 'exit_wait'),
        (dict(backbone__exit_head=None), ValueError, 'supervises an exit'),
        (
            dict(
                backbone__exit_head=dict(BACKBONE['exit_head'], num_classes=7)
            ),
            ValueError,
            'exit_head.num_classes=7 must equal bbox_head.num_classes=5',
        ),
        (
            dict(backbone=dict(type='ResNet', depth=18)),
            TypeError,
            'MambaScopeBackbone.*got ResNet',
        ),
    ],
)
def test_bad_arguments(make_detector, options, error, message) -> None:
    with pytest.raises(error, match=message):
        make_detector(**options)


def test_labels_beyond_the_classes_name_the_image(make_detector) -> None:
    with pytest.raises(ValueError, match=r'some.jpg: .*0 to 4, found 9'):
        make_detector().exit_target([make_sample(labels=[1, 9])])

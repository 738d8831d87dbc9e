"""What each score of cells gives, and what it refines."""

import numpy as np
import pytest
import torch
from exit_images import Images, load
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from mmscope.exits import count_share_gflops
from mmscope.exits.cells import SCORES, compare_cells, marked_pixels
from mmscope.models import exit_settings


def segmentation(mask: torch.Tensor) -> SegDataSample:
    size = tuple(mask.shape)
    return SegDataSample(
        gt_sem_seg=PixelData(data=mask[None]),
        metainfo=dict(img_path='a.jpg', img_shape=size, ori_shape=size),
    )


def test_objects_are_all_but_the_largest_region() -> None:
    mask = torch.full((6, 8), 3)
    mask[1:3, 2:5] = 1
    objects, edges = marked_pixels(segmentation(mask))
    assert objects.sum() == 6
    assert objects[1:3, 2:5].all()
    # above, left, and the object's own right and lower pixels
    assert edges.sum() == 3 + 2 + 2 + 3 - 1
    assert edges[0, 2:5].all()
    assert edges[1:3, 1].all()


def test_objects_of_detection_are_boxes() -> None:
    sample = DetDataSample(
        gt_instances=InstanceData(
            bboxes=torch.tensor([[0.0, 0, 6, 6], [1, 1, 3, 3]])
        ),
        metainfo=dict(ori_shape=(8, 10)),
    )
    objects, edges = marked_pixels(sample)
    assert objects.sum() == 36
    assert edges[0, 1:3].all()  # the inner box's upper border
    assert not edges[4, 4]


def test_no_ground_truth_is_named() -> None:
    sample = SegDataSample(metainfo=dict(img_path='a.jpg'))
    with pytest.raises(ValueError, match='a.jpg has no ground truth'):
        marked_pixels(sample)


def test_every_score_with_every_share(make_segmentor, metric) -> None:
    """Texture and object in one cell: contrast finds it, at one of six."""
    torch.manual_seed(0)
    model = make_segmentor()
    items = []
    for column in (0, 32, 64):
        image, mask = torch.full((3, 64, 96), 0.3), torch.zeros(64, 96).long()
        image[:, 4:28, column + 4 : column + 28] = torch.randn(3, 24, 24)
        mask[8:24, column + 8 : column + 24] = 2
        items.append(dict(inputs=image, data_samples=segmentation(mask)))
    alphas = (0.1, 1.0)
    with exit_settings(model, alpha=alphas):
        records = compare_cells(
            model,
            load(Images(items)),
            metric,
            SCORES,
            alphas,
            count_share_gflops(model),
        )
    assert len(records) == 1 + 2 * len(SCORES)
    found = {(r['cells'], r['alpha']): r for r in records}
    assert found['contrast', 0.1]['objects'] == 1
    assert found['contrast', 0.1]['edges'] == 1
    assert found['none', 0.0]['objects'] == 0
    every = [found[name, 1.0] for name in SCORES]
    assert {r['objects'] for r in every} == {1.0}
    assert np.ptp([r['score'] for r in every]) == pytest.approx(0, abs=1e-6)
    costs = [found[key]['gflops'] for key in
             (('none', 0.0), ('oracle', 0.1), ('oracle', 1.0))]  # fmt: skip
    assert costs == sorted(costs)


def test_oracle_is_not_beaten_where_refining_mends_errors(
    make_segmentor, metric
) -> None:
    """A fine pass that is always right, in place of the decode head's."""
    torch.manual_seed(1)
    model = make_segmentor(backbone__exit_resolution='fine')
    truth = torch.randint(0, 5, (4, 64, 96))
    images = torch.randn(4, 3, 64, 96)

    def mended(coarse, result, metas):
        logits = coarse.clone()
        for row, cells in enumerate(result.refined_cells):
            grid = cells.unflatten(0, (2, 3))
            wide = grid.repeat_interleave(32, 0).repeat_interleave(32, 1)
            index = [int(torch.equal(result.images[row], one)) for one in
                     images].index(1)  # fmt: skip
            right = torch.nn.functional.one_hot(truth[index], 5)
            logits[row] = torch.where(
                wide, 9.0 * right.permute(2, 0, 1), logits[row]
            )
        return logits

    model._refine_answers = mended
    # coarse answers must be decoded before, as these scores do
    policy = dict(type='mmscope.PixelConfidence')
    items = [
        dict(inputs=image, data_samples=segmentation(mask))
        for image, mask in zip(images, truth, strict=True)
    ]
    alphas = (0.3, 0.5, 0.7)
    with exit_settings(model, alpha=alphas, policy=policy):
        records = compare_cells(
            model,
            load(Images(items)),
            metric,
            SCORES,
            alphas,
            count_share_gflops(model),
        )
    for alpha in alphas:
        scores = {r['cells']: r['score'] for r in records
                  if r['alpha'] == alpha}  # fmt: skip
        assert scores['oracle'] >= max(scores.values()) - 0.5
        assert scores['oracle'] > scores['chance']

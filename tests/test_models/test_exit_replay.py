"""Replaying thresholds against running them."""

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch.utils.data import DataLoader

from mmscope.analysis import collect_answers, sweep_eta
from mmscope.analysis.exit_sweep import class_areas, mean_iou


def test_empty_dataset_is_refused(segmentor) -> None:
    with pytest.raises(ValueError, match='dataset is empty'):
        collect_answers(segmentor, DataLoader([]))


def test_replay_equals_real_inference(segmentor) -> None:
    """MIoU and exit rate of a real pass at eta are those of the replay."""
    torch.manual_seed(3)
    data = [
        dict(
            inputs=scale * torch.randn(3, 64, 96),
            data_samples=SegDataSample(
                gt_sem_seg=PixelData(data=torch.randint(0, 5, (1, 64, 96))),
                metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96)),
            ),
        )
        for scale in (0.2, 1.0, 2.0, 4.0)
    ]
    for batch_size in (1, 4):
        loader = DataLoader(data, batch_size, collate_fn=collate)
        answers = collect_answers(segmentor, loader)
        middle = np.sort(answers.confidence)
        eta = float(middle[1] + middle[2]) / 2
        (replayed,) = sweep_eta(answers, [eta])
        segmentor.backbone.eta = eta
        exited, areas = [], 0
        for batch in loader:
            with torch.no_grad():
                for sample in segmentor.test_step(batch):
                    exited.append(sample.exited)
                    areas = areas + class_areas(
                        sample.pred_sem_seg.data[0],
                        sample.gt_sem_seg.data[0],
                        5,
                        255,
                    )
        assert np.mean(exited) == replayed['exit_rate'] == 0.5
        assert 100 * mean_iou(areas) == pytest.approx(
            replayed['mIoU'], abs=1e-3
        )


def collate(items: list[dict]) -> dict:
    return {key: [item[key] for item in items] for key in items[0]}

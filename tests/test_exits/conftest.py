"""What tests of answers share: images of five classes, and their metric."""

import pytest
import torch
from exit_images import Images, picture
from mmseg.evaluation import IoUMetric

from mmscope.evaluation.task_metric import TaskMetric


@pytest.fixture
def data() -> Images:
    torch.manual_seed(3)
    scales = (0.2, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0)
    return Images(picture(scale) for scale in scales)


@pytest.fixture
def metric() -> TaskMetric:
    iou = IoUMetric()
    iou.dataset_meta = dict(classes=list('abcde'))
    return TaskMetric(iou)

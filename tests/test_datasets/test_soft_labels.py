"""Soft labels: kept, read, mixed, and learned by both classifiers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.structures import DataSample

from mmscope.datasets import LoadSoftLabels, save_soft_labels
from mmscope.registry import MODELS, TRANSFORMS

CONFIGS = Path(__file__).parents[2] / 'configs/evidence'


@pytest.fixture
def labels(tmp_path: Path) -> str:
    path = str(tmp_path / 'teacher.npz')
    answers = {
        'data/train/cat/1.jpg': np.array([0.5, 0.25, 0.25]),
        'data/train/dog/1.jpg': np.array([0.125, 0.75, 0.125]),
    }
    save_soft_labels(path, answers)
    return path


def load(path: str, image: str, label: int, **more: float) -> np.ndarray:
    step = TRANSFORMS.build(
        dict(type='mmscope.LoadSoftLabels', path=path, **more)
    )
    return step(dict(img_path=image, gt_label=label))['gt_score']


def test_mixes_teacher_and_label(labels: str) -> None:
    # from another root, of the same folder and name
    score = load(labels, '/elsewhere/dog/1.jpg', 2, weight=0.25)
    assert score.tolist() == [0.03125, 0.1875, 0.78125]
    assert load(labels, 'cat/1.jpg', 0).tolist() == [0.75, 0.125, 0.125]
    assert load(labels, 'cat/1.jpg', 1, weight=0).tolist() == [0, 1, 0]


def test_says_what_is_wrong(labels: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'weight must be in \[0, 1\], got 2'):
        LoadSoftLabels(labels, weight=2)
    with pytest.raises(FileNotFoundError, match='at b.npz; write them with'):
        LoadSoftLabels('b.npz')
    with pytest.raises(KeyError, match='no answer for cat/2.jpg; run'):
        load(labels, 'cat/2.jpg', 0)
    with pytest.raises(ValueError, match='the label 3, and .* classes 0 to 2'):
        load(labels, 'cat/1.jpg', 3)
    twice = {'a/cat/1.jpg': np.ones(2), 'b/cat/1.jpg': np.ones(2)}
    with pytest.raises(ValueError, match='share their folder and name'):
        save_soft_labels(str(tmp_path / 'b.npz'), twice)


@pytest.mark.parametrize('name', ['vim_teacher', 'paper_teacher'])
def test_both_classifiers_learn_them(name: str) -> None:
    cfg = Config.fromfile(CONFIGS / f'imagenette_{name}.py')
    steps = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert steps[1] == 'mmscope.LoadSoftLabels'
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    images = torch.randn(2, 3, 112, 112)

    def loss(score: torch.Tensor) -> float:
        samples = [
            DataSample().set_gt_label(0).set_gt_score(score) for _ in images
        ]
        losses = model.loss(images, samples)
        return (losses.get('loss_exit', losses.get('loss'))).item()

    # cross-entropy is linear in the labels
    one, two = torch.eye(10)[0], torch.eye(10)[1]
    mixed = loss(0.75 * one + 0.25 * two)
    assert mixed == pytest.approx(0.75 * loss(one) + 0.25 * loss(two))
    assert loss(one) != pytest.approx(loss(two))

"""Replaying thresholds against running them."""

import pickle

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample
from torch.utils.data import DataLoader

from mmscope.evaluation.task_metric import TaskMetric
from mmscope.exits import AnswerCache, collect_answers, sweep_eta
from mmscope.models.exit_policies import build_policy


@pytest.fixture
def metric() -> TaskMetric:
    iou = IoUMetric()
    iou.dataset_meta = dict(classes=list('abcde'))
    return TaskMetric(iou)


@pytest.fixture
def data() -> list[dict]:
    torch.manual_seed(3)
    return [
        dict(
            inputs=scale * torch.randn(3, 64, 96),
            data_samples=SegDataSample(
                gt_sem_seg=PixelData(data=torch.randint(0, 5, (1, 64, 96))),
                metainfo=dict(
                    img_path=f'{scale}.jpg',
                    img_shape=(64, 96),
                    ori_shape=(64, 96),
                ),
            ),
        )
        for scale in (0.2, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0)
    ]


def collate(items: list[dict]) -> dict:
    return {key: [item[key] for item in items] for key in items[0]}


def load(data: list[dict], batch_size: int = 2) -> DataLoader:
    return DataLoader(data, batch_size, collate_fn=collate)


def middle(confidence: np.ndarray) -> float:
    """The threshold that half of the images reach."""
    half = len(confidence) // 2
    return float(np.sort(confidence)[half - 1 : half + 1].mean())


def test_empty_dataset_is_refused(segmentor, metric) -> None:
    with pytest.raises(ValueError, match='dataset is empty'):
        collect_answers(segmentor, DataLoader([]), metric)


def test_model_without_exit_head_is_refused(metric) -> None:
    model = torch.nn.Module()
    model.backbone = torch.nn.Module()
    model.backbone.exit_head = None
    with pytest.raises(ValueError, match='no exit head'):
        collect_answers(model, DataLoader([1]), metric)


@pytest.mark.parametrize('policy', [None, 'pixel', 'min_positive', 'chance'])
@pytest.mark.parametrize('resolution', ['coarse', 'fine'])
@pytest.mark.parametrize('batch_size', [1, 8])
def test_replay_equals_real_inference(
    segmentor, metric, data, batch_size, resolution, policy
) -> None:
    """Metric and exit rate of a real pass at eta are those of the replay."""
    segmentor.backbone.exit_resolution = resolution
    if policy is not None:
        segmentor.backbone.exit_policy = build_policy(policy)
    loader = load(data, batch_size)
    answers = collect_answers(segmentor, loader, metric)['model']
    eta = middle(answers.confidence)
    (replayed,) = sweep_eta(answers, metric, [eta])
    segmentor.backbone.eta = eta
    samples = []
    with torch.no_grad():
        for batch in loader:
            samples += segmentor.test_step(batch)
    real = metric.score(metric.entries(samples))
    rate = np.mean([sample.exited for sample in samples])
    assert rate == replayed['exit_rate'] == 0.5
    assert real['mIoU'] == pytest.approx(replayed['mIoU'], abs=0.01)


def test_collecting_leaves_the_model_as_it_was(
    segmentor, metric, data
) -> None:
    segmentor.backbone.eta = 0.4
    by_policy = collect_answers(
        segmentor,
        load(data),
        metric,
        policies={'pixel': build_policy('pixel')},
    )
    assert segmentor.backbone.eta == 0.4
    assert segmentor.backbone.exit_policy is None
    own, other = by_policy['model'], by_policy['pixel']
    assert not np.allclose(own.confidence, other.confidence)
    assert np.array_equal(own.quality, other.quality)


def test_stopped_collection_goes_on(segmentor, metric, data, tmp_path) -> None:
    """Only the images that are missing are answered again."""
    whole = collect_answers(segmentor, load(data), metric)['model']
    cache = AnswerCache(tmp_path)
    seen = []

    class Stopped(list):
        def __getitem__(self, index: int) -> dict:
            if len(seen) == 7:
                raise KeyboardInterrupt
            seen.append(index)
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        collect_answers(segmentor, load(Stopped(data)), metric, cache)
    assert len(list(tmp_path.glob('*.pkl'))) == 6
    # a write that was cut off is not taken for an answer
    (tmp_path / '000006.part').write_bytes(b'half')
    seen.clear()
    again = collect_answers(segmentor, load(Stopped(data)), metric, cache)
    assert seen == [6, 7]
    np.testing.assert_allclose(
        again['model'].confidence, whole.confidence, atol=1e-6
    )
    seen.clear()
    collect_answers(segmentor, load(Stopped(data)), metric, cache)
    assert seen == []


def test_new_policy_answers_cached_images_again(
    segmentor, metric, data, tmp_path
) -> None:
    cache = AnswerCache(tmp_path)
    collect_answers(segmentor, load(data), metric, cache)
    found = collect_answers(
        segmentor, load(data), metric, cache, {'max': build_policy('max')}
    )
    assert set(found) == {'model', 'max'}
    with (tmp_path / '000000.pkl').open('rb') as file:
        assert set(pickle.load(file).confidence) == {'model', 'max'}

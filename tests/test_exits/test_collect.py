"""Both answers, and what is replayed from them against what is run."""

import numpy as np
import pytest
import torch
from exit_images import Images, load, picture
from torch.utils.data import DataLoader

from mmscope.exits import (
    AnswerCache,
    collect_answers,
    count_gflops,
    sweep_eta,
)
from mmscope.exits.plain_data import load_plain
from mmscope.models import exit_settings
from mmscope.models.exit_policies import build_policy
from mmscope.utils.flops import model_flops


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

    class Stopped(Images):
        def __getitem__(self, index: int) -> dict:
            if len(seen) == 7:
                raise KeyboardInterrupt
            seen.append(index)
            return super().__getitem__(index)

        def get_data_info(self, index: int) -> dict:
            return data.get_data_info(index)

    with pytest.raises(KeyboardInterrupt):
        collect_answers(segmentor, load(Stopped(data)), metric, cache)
    assert len(list(tmp_path.glob('*.pth'))) == 6
    # a write that was cut off is not taken for an answer
    (tmp_path / 'some.part').write_bytes(b'half')
    seen.clear()
    again = collect_answers(segmentor, load(Stopped(data)), metric, cache)
    assert seen == [6, 7]
    np.testing.assert_allclose(
        again['model'].confidence, whole.confidence, atol=1e-6
    )
    assert again['model'].names == whole.names
    seen.clear()
    # another order, and one image twice
    order = [3, 0, 3, 7]
    part = collect_answers(
        segmentor, load(Stopped(data)), metric, cache, indices=order
    )['model']
    assert seen == []
    assert part.names == [whole.names[i] for i in order]
    assert sweep_eta(part, metric, [0.5])[0]['mIoU'] == pytest.approx(
        sweep_eta(whole.rows(order), metric, [0.5])[0]['mIoU']
    )


def test_new_policy_answers_cached_images_again(
    segmentor, metric, data, tmp_path
) -> None:
    """And what was said by policies before is kept."""
    cache = AnswerCache(tmp_path)
    for policies in ({}, {'max': 'max'}, {'least': 'min_positive'}):
        built = {key: build_policy(value) for key, value in policies.items()}
        found = collect_answers(segmentor, load(data), metric, cache, built)
        assert set(found) == {'model', *policies}
    kept = [load_plain(path)['confidence'] for path in tmp_path.iterdir()]
    assert len(kept) == len(data)
    assert all(set(one) == {'model', 'max', 'least'} for one in kept)


@pytest.mark.parametrize('batch_size', [1, 5])
def test_policies_are_compared_on_the_passes_that_are_there(
    segmentor, metric, data, batch_size
) -> None:
    """Whatever the sizes, each image gets its own, at no pass more."""
    images = Images(
        picture(scale, (64, 96) if i % 2 else (96, 64))
        for i, scale in enumerate((0.2, 0.5, 1.0, 2.0, 4.0))
    )
    names = ('pixel', 'certainty', 'chance')
    loader = load(images, batch_size)
    runs = []
    hook = segmentor.backbone.patch_embed.register_forward_hook(
        lambda *_: runs.append(1)
    )
    alone = collect_answers(segmentor, loader, metric)['model']
    without = len(runs)
    by_policy = collect_answers(
        segmentor,
        loader,
        metric,
        policies={name: build_policy(name) for name in names},
    )
    assert len(runs) == 2 * without
    hook.remove()
    assert np.array_equal(by_policy['model'].confidence, alone.confidence)
    for name in names:
        segmentor.backbone.exit_policy = build_policy(name)
        own = collect_answers(segmentor, load(images, 1), metric)['model']
        np.testing.assert_allclose(
            by_policy[name].confidence, own.confidence, atol=1e-5
        )


@pytest.mark.parametrize('policy', [None, 'pixel'])
def test_windows_are_replayed_as_they_are_decided(
    segmentor, metric, policy
) -> None:
    """Slide inference: images of one, two and six windows."""
    segmentor.test_cfg.update(
        mode='slide', crop_size=(64, 96), stride=(32, 48)
    )
    if policy is not None:
        segmentor.backbone.exit_policy = build_policy(policy)
    sizes = ((64, 96), (64, 128), (96, 144))
    images = Images(picture(1.0 + i, size) for i, size in enumerate(sizes))
    for one in images:  # windows differ
        one['inputs'] *= torch.linspace(0.1, 3, one['inputs'].shape[2])
    loader = load(images, 3)
    answers = collect_answers(
        segmentor, loader, metric, cost=count_gflops(segmentor)
    )['model']
    assert [len(windows) for windows in answers.windows] == [1, 2, 6]
    pooled = np.sort(np.concatenate(answers.windows))
    shares = set()
    for eta in (0, *(pooled[:-1] + pooled[1:]) / 2, 1):
        (replayed,) = sweep_eta(answers, metric, [eta])
        samples = []
        with torch.no_grad(), exit_settings(segmentor, eta=float(eta)):
            for batch in loader:
                samples += segmentor.test_step(batch)
        rate = np.mean([sample.exited for sample in samples])
        assert replayed['exit_rate'] == pytest.approx(rate)
        real = metric.score(metric.entries(samples))
        assert replayed['mIoU'] == pytest.approx(real['mIoU'], abs=0.01)
        shares.add(round(rate, 3))
    assert len(shares) > 5
    # each window costs what an image of its size costs
    one = model_flops(segmentor, (64, 96))
    assert answers.gflops[:, 0] == pytest.approx(
        np.array([1, 2, 6]) * one.exited.total() / 1e9
    )
    assert answers.gflops[2, 1] == pytest.approx(6 * one.refined.total() / 1e9)

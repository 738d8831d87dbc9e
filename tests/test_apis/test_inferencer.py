from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.apis import MMSegInferencer

from mmscope.apis import ScopeInferencer
from mmscope.registry import MODELS


@pytest.fixture(scope='module')
def files(tiny_config, tmp_path_factory) -> tuple[Path, Path]:
    """Config and random weights."""
    config = tiny_config()
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config).model)
    path = tmp_path_factory.mktemp('weights') / 'weights.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return config, path


@pytest.fixture
def infer(files) -> Callable[..., ScopeInferencer]:
    return lambda **options: ScopeInferencer(*files, **options)


@pytest.fixture
def images(tmp_path) -> list[Path]:
    """Five images of three sizes."""
    rng = np.random.default_rng(0)
    sizes = [(60, 90), (90, 60), (60, 90), (48, 200), (60, 90)]
    paths = []
    for index, size in enumerate(sizes):
        pixels = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        pixels = cv2.resize(pixels, size[::-1])
        paths.append(tmp_path / f'{index}.png')
        cv2.imwrite(str(paths[-1]), pixels)
    return paths


def test_batches_of_several_sizes_keep_their_order(infer, images) -> None:
    together = infer(eta=0.5, batch_size=2)
    batches = []
    step = together.model.test_step
    together.model.test_step = lambda data: (
        batches.append(len(data['inputs'])) or step(data)
    )
    found = together(images)
    assert sorted(batches) == [1, 1, 1, 2]
    alone = infer(eta=0.5, batch_size=1)
    for path, sample in zip(images, found, strict=True):
        assert sample.img_path == str(path)
        assert sample.ori_shape == cv2.imread(str(path)).shape[:2]
        assert sample.pred_sem_seg.data.shape[1:] == sample.ori_shape
        (single,) = alone(path)
        assert single.exited == sample.exited
        assert single.exit_confidence == pytest.approx(
            sample.exit_confidence, abs=1e-5
        )


def test_files_folders_arrays_and_lists_agree(infer, images) -> None:
    run = infer()
    folder = run(images[0].parent)
    arrays = run([cv2.imread(str(path)) for path in images])
    mixed = run([images[0], cv2.imread(str(images[1]))])
    for index, (a, b) in enumerate(zip(folder, arrays, strict=True)):
        assert torch.equal(a.pred_sem_seg.data, b.pred_sem_seg.data), index
    assert torch.equal(mixed[1].pred_sem_seg.data, arrays[1].pred_sem_seg.data)


def test_eta_decides(infer, images) -> None:
    assert all(sample.exited for sample in infer(eta=0.0)(images))
    assert not any(sample.exited for sample in infer(eta=1.0)(images))


def test_mmsegs_own_inferencer_agrees(infer, files, images) -> None:
    config, checkpoint = map(str, files)
    theirs = MMSegInferencer(config, checkpoint, device='cpu')
    found = theirs(
        [str(path) for path in images], return_datasamples=True, batch_size=1
    )
    for ours, other in zip(infer()(images), found, strict=True):
        assert torch.equal(ours.pred_sem_seg.data, other.pred_sem_seg.data)
        assert other.exited == ours.exited


def test_bad_input_is_named(infer, files, tmp_path) -> None:
    with pytest.raises(ValueError, match=r'eta must be in .*got 1.5'):
        infer(eta=1.5)
    with pytest.raises(ValueError, match='batch_size must be positive, got 0'):
        infer(batch_size=0)
    with pytest.raises(FileNotFoundError, match='none.pth'):
        ScopeInferencer(files[0], tmp_path / 'none.pth')
    run = infer()
    with pytest.raises(FileNotFoundError, match=r'none.jpg does not exist'):
        run(tmp_path / 'none.jpg')
    with pytest.raises(FileNotFoundError, match='has no image; allowed are'):
        run(tmp_path)
    with pytest.raises(TypeError, match='got int'):
        run(3)
    with pytest.raises(ValueError, match=r'\(H, W, 3\), got shape \(4, 4\)'):
        run(np.zeros((4, 4), dtype=np.uint8))
    text = tmp_path / 'text.jpg'
    text.write_text('no image')
    with pytest.raises(OSError, match=r'cannot read .*text.jpg'):
        run(text)


def test_model_without_exits_is_refused(tiny_config, tmp_path) -> None:
    config = tiny_config(base='vim_t_ade20k')
    with pytest.raises(ValueError, match='needs a model with early exits'):
        ScopeInferencer(config, tmp_path / 'any.pth')

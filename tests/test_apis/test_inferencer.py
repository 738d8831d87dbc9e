from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmseg.apis import MMSegInferencer
from PIL import Image

from mmscope.apis import ScopeInferencer
from mmscope.datasets import LoadChecked
from mmscope.engine.data_report import report_data

WRAPPERS = [
    """
test_dataloader = dict(
    dataset=dict(_delete_=True, type='RepeatDataset', times=2,
                 dataset=_base_.val_dataloader.dataset)
)
""",
    """
test_dataloader = dict(
    dataset=dict(_delete_=True, type='ConcatDataset',
                 datasets=[_base_.val_dataloader.dataset] * 2)
)
""",
]


@pytest.fixture
def infer(model_files) -> Callable[..., ScopeInferencer]:
    return lambda **options: ScopeInferencer(*model_files, **options)


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


def test_grey_arrays_are_those_of_three_equal_channels(infer) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (60, 90), np.uint8)
    colour = np.stack([grey] * 3, axis=-1)
    alpha = np.dstack([colour, np.full_like(grey, 7)])
    run = infer()
    answers = list(run.stream([colour, grey, grey[..., None], alpha]))
    for answer in answers:
        assert np.array_equal(answer.image, colour)
        assert torch.equal(
            answer.sample.pred_sem_seg.data,
            answers[0].sample.pred_sem_seg.data,
        )


@pytest.mark.parametrize('size', [(1, 1), (1, 90), (90, 1), (2, 3)])
def test_the_smallest_images_have_an_answer(infer, size) -> None:
    (sample,) = infer()(np.full((*size, 3), 99, dtype=np.uint8))
    assert sample.pred_sem_seg.data.shape == (1, *size)


def test_an_image_that_vanishes_is_named(infer) -> None:
    """The pipeline's longer side is 192, a tenth of this one's."""
    with pytest.raises(ValueError, match='1 x 1920.*side of it vanishes'):
        infer()(np.zeros((1, 1920, 3), dtype=np.uint8))


def test_a_stream_reads_no_more_than_it_needs(infer, images) -> None:
    """Two batches at most wait for others of their size."""
    read = []

    def endless():
        while True:
            for path in images:
                read.append(path)
                yield path

    stream = infer(batch_size=2).stream(endless())
    for index in range(12):
        sample, image = next(stream)
        assert sample.img_path == str(images[index % len(images)])
        assert image.shape[:2] == sample.ori_shape
        assert len(read) - index <= 4


def test_logits_are_kept_where_asked(infer, images) -> None:
    assert 'seg_logits' not in infer()(images[0])[0]
    (sample,) = infer(keep_logits=True)(images[0])
    assert torch.equal(
        sample.seg_logits.data.argmax(0), sample.pred_sem_seg.data[0]
    )


def test_folders_are_searched_with_those_in_them(infer, images) -> None:
    deep = images[0].parent / 'a' / 'b'
    deep.mkdir(parents=True)
    (deep / 'x.PNG').write_bytes(images[1].read_bytes())
    found = infer()(images[0].parent)
    assert [s.img_path for s in found] == [
        *map(str, images),
        str(deep / 'x.PNG'),
    ]


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_wrapped_datasets_have_a_pipeline(
    tiny_config, model_files, images, wrapper
):
    config = tiny_config(wrapper)
    (sample,) = ScopeInferencer(config, model_files[1])(images[0])
    assert sample.ori_shape == (60, 90)


def test_eta_decides(infer, images) -> None:
    assert all(sample.exited for sample in infer(eta=0.0)(images))
    assert not any(sample.exited for sample in infer(eta=1.0)(images))


def test_tau_decides(save_weights, images) -> None:
    """Each image gets the cells that it needs, by default the config's."""
    files = save_weights(
        more="model['backbone'].update(alpha=(0.2, 0.5, 1.0), tau=1e9)\n"
    )
    assert all(one.exited for one in ScopeInferencer(*files, eta=1.0)(images))
    every = ScopeInferencer(*files, eta=1.0, tau=-1.0)(images)
    assert [one.refined_share for one in every] == [1.0] * len(images)
    scores = torch.cat([one.cell_scores for one in every])
    tau = scores[scores.isfinite()].quantile(0.7).item()
    found = ScopeInferencer(*files, eta=1.0, tau=tau)(images)
    assert len({one.refined_share for one in found}) > 1
    assert all(one.exited == (one.refined_share == 0) for one in found)


def test_mmsegs_own_inferencer_agrees(infer, model_files, images) -> None:
    config, checkpoint = map(str, model_files)
    theirs = MMSegInferencer(config, checkpoint, device='cpu')
    found = theirs(
        [str(path) for path in images], return_datasamples=True, batch_size=1
    )
    for ours, other in zip(infer()(images), found, strict=True):
        assert torch.equal(ours.pred_sem_seg.data, other.pred_sem_seg.data)
        assert other.exited == ours.exited


def test_bad_input_is_named(infer, model_files, tmp_path) -> None:
    with pytest.raises(ValueError, match=r'eta must be in .*got 1.5'):
        infer(eta=1.5)
    with pytest.raises(ValueError, match=r'tau must be a finite.*got inf'):
        infer(tau=float('inf'))
    with pytest.raises(ValueError, match='batch_size must be positive, got 0'):
        infer(batch_size=0)
    with pytest.raises(FileNotFoundError, match='none.pth'):
        ScopeInferencer(model_files[0], tmp_path / 'none.pth')
    run = infer()
    with pytest.raises(FileNotFoundError, match=r'none.jpg does not exist'):
        run(tmp_path / 'none.jpg')
    with pytest.raises(FileNotFoundError, match='has no image; allowed are'):
        run(tmp_path)
    with pytest.raises(TypeError, match='got int'):
        run(3)
    with pytest.raises(
        ValueError, match=r'\(H, W, 3\).*got shape \(4, 4, 2\)'
    ):
        run(np.zeros((4, 4, 2), dtype=np.uint8))
    with pytest.raises(ValueError, match=r'got shape \(0, 4, 3\)'):
        run(np.zeros((0, 4, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match='uint8 from 0 to 255, got float64'):
        run(np.zeros((4, 4, 3)))
    text = tmp_path / 'text.jpg'
    text.write_text('no image')
    with pytest.raises(OSError, match=r'cannot read .*text.jpg'):
        run(text)


def test_pixels_that_are_not_finite_are_named(infer, tmp_path) -> None:
    run = infer()
    good = np.full((64, 96, 3), 99, dtype=np.uint8)
    bad = good.astype(np.float32) / 255
    bad[:2, 0, 0] = np.nan, np.inf
    with pytest.raises(
        ValueError,
        match=r'inputs\[1\]\[0\] has 2 of 18432 values that are NaN or inf',
    ):
        run([good, [bad, good]])
    with pytest.raises(ValueError, match='an array has 2 of 18432 values'):
        run.read(bad)


@pytest.mark.parametrize('pixel', ['nan', 'inf'])
def test_files_of_such_pixels_are_named(tmp_path, pixel) -> None:
    """Pillow keeps floats of TIFFs; OpenCV replaces those it knows."""
    image = np.full((64, 96), 99, dtype=np.float32)
    image[3, 4:7] = float(pixel)
    path = tmp_path / 'a.tif'
    Image.fromarray(image).save(path)
    load = LoadChecked(
        dict(
            type='LoadImageFromFile',
            color_type='unchanged',
            imdecode_backend='pillow',
        )
    )
    with pytest.raises(ValueError, match=r'a.tif has 3 of 6144 values that'):
        load(dict(img_path=str(path)))


def test_pipelines_that_make_such_pixels_are_told(save_weights) -> None:
    by_zero = "dict(type='Normalize', mean=[0.0] * 3, std=[0.0] * 3)"
    files = save_weights(more=f'test_pipeline.insert(2, {by_zero})\n')
    run = ScopeInferencer(*files)
    with pytest.raises(
        ValueError,
        match='an array, as the test pipeline leaves it, has 41472 of 41472',
    ):
        run(np.full((64, 96, 3), 99, dtype=np.uint8))
    # the loader of masks looks at the image before, unlike the packing
    steps = run.cfg.val_dataloader.dataset.pipeline
    for steps_now in (steps, [steps[0], steps[2], steps[-1]]):
        run.cfg.val_dataloader.dataset.pipeline = steps_now
        (found,) = report_data(run.cfg, ('val',), 1)
        assert 'that are NaN or infinite' in found.problems[0].value


def test_model_without_exits_is_refused(tiny_config, tmp_path) -> None:
    config = tiny_config(base='vim_t_ade20k')
    with pytest.raises(ValueError, match='needs a model with early exits'):
        ScopeInferencer(config, tmp_path / 'any.pth')

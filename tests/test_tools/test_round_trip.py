"""A config that one tool wrote is one that every other tool takes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmengine.config import Config
from mmseg.apis import MMSegInferencer, inference_model, init_model
from single_run import single_run
from test_detection import write_config

from mmscope.apis import ScopeInferencer

TWO = """
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks['checkpoint'] = dict(interval=1, save_best=None)
"""


class Run(NamedTuple):
    """A short training: the config that it wrote, and its checkpoints."""

    config: Path
    first: Path
    last: Path
    image: Path


def is_written(work_dir: Path, image: Path) -> Run:
    return Run(
        work_dir / 'tiny.py',
        work_dir / 'iter_1.pth',
        work_dir / 'iter_2.pth',
        image,
    )


@pytest.fixture(scope='module')
def segmentation(train, tiny_config, sample_root, tmp_path_factory) -> Run:
    work_dir = tmp_path_factory.mktemp('segmentation')
    train(tiny_config(TWO), work_dir)
    image = next((sample_root / 'images/validation').iterdir())
    return is_written(work_dir, image)


@pytest.fixture(scope='module')
def detection(train, sample_root, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp('detection')
    more = TWO.replace('interval=1', 'interval=1, by_epoch=False')
    train(write_config(folder, sample_root, more), folder / 'work')
    image = next((sample_root / 'val2017').iterdir())
    return is_written(folder / 'work', image)


@pytest.fixture
def test_tool(run_tool, tmp_path) -> Callable[..., dict]:
    """Metrics of tools/test.py."""

    def run(config: Path, checkpoint: Path, *options: object) -> dict:
        out = tmp_path / 'out'
        run_tool(
            'test.py',
            *(config, checkpoint, '--out', out),
            *('--work-dir', tmp_path / 'tested', *options),
        )
        return json.loads((out / 'metrics.json').read_text())

    return run


def segment_with_mmseg(run: Run, config: Path) -> torch.Tensor:
    """By both of mmseg's ways, which agree."""
    files = str(config), str(run.last)
    with single_run():
        inferencer = MMSegInferencer(*files, device='cpu')
        found = inferencer(str(run.image), return_datasamples=True)
        model = init_model(*files, device='cpu')
        again = inference_model(model, str(run.image))
    assert torch.equal(found.pred_sem_seg.data, again.pred_sem_seg.data)
    return found.pred_sem_seg.data


def detect_with_mmdet(run: Run, config: Path) -> torch.Tensor:
    """By both of mmdet's ways, which agree."""
    files = str(config), str(run.last)
    with single_run():
        inferencer = DetInferencer(*files, device='cpu')
        answers = inferencer(
            str(run.image), return_datasamples=True, out_dir=''
        )
        (found,) = answers['predictions']
        model = init_detector(*files, device='cpu')
        again = inference_detector(model, str(run.image))
    boxes = found.pred_instances.bboxes
    assert torch.equal(boxes, again.pred_instances.bboxes)
    return boxes


@pytest.mark.parametrize(
    ('task', 'upstream', 'answer', 'score'),
    [
        (
            'segmentation',
            segment_with_mmseg,
            lambda sample: sample.pred_sem_seg.data,
            'mIoU',
        ),
        (
            'detection',
            detect_with_mmdet,
            lambda sample: sample.pred_instances.bboxes,
            'coco/segm_mAP',
        ),
    ],
)
@pytest.mark.slow
def test_round_trip(
    request, run_tool, test_tool, tmp_path, task, upstream, answer, score
) -> None:
    run: Run = request.getfixturevalue(task)
    first = test_tool(run.config, run.last, '--eta', 0.6)
    tested = tmp_path / 'tested/tiny.py'
    assert test_tool(tested, run.last) == first

    (ours,) = ScopeInferencer(tested, run.last)(run.image)
    assert torch.equal(answer(ours), upstream(run, tested))

    sweep = tmp_path / 'sweep'
    run_tool(
        *('eta_sweep.py', tested, run.last, '--out-dir', sweep),
        *('--eta', 0, 0.6, 1, '--draws', 2, '--num-pictures', 0),
    )
    record = json.loads((sweep / 'sweep.json').read_text())['sweep'][1]
    name = score.split('/')[-1]
    assert record[name] == pytest.approx(first[score], abs=1e-2, nan_ok=True)
    assert record['exit_rate'] == first['exit/rate']

    fitted = tmp_path / 'fitted'
    run_tool(
        *('calibrate_eta.py', tested, run.last, '--exit-rate', 0.5),
        *('--num-images', 6, '--out-dir', fitted),
    )
    found = json.loads((fitted / 'calibration.json').read_text())
    (written,) = fitted.glob('*_eta.py')
    last = test_tool(written, run.last)
    assert last['eta'] == found['eta']
    for key, value in found['validation'].items():
        assert last[key] == pytest.approx(value, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize('task', ['segmentation', 'detection'])
def test_the_weights_that_are_asked_for_are_tested(
    request, test_tool, tmp_path, task
) -> None:
    """Whatever the config would load or resume from."""
    run: Run = request.getfixturevalue(task)
    cfg = Config.fromfile(run.config)
    scores = [test_tool(run.config, p) for p in (run.first, run.last)]
    assert scores[0] != scores[1]
    for resume in (False, True):
        cfg.merge_from_dict(dict(load_from=str(run.last), resume=resume))
        path = tmp_path / 'other.py'
        cfg.dump(path)
        found = test_tool(path, run.first)
        assert found == pytest.approx(scores[0], nan_ok=True)

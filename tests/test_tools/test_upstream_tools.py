"""mmseg's and mmdet's own tools, on configs and checkpoints of ours."""

import json
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mmdet
import mmseg
import pytest
import torch
from mmengine.config import Config
from single_run import single_run
from test_round_trip import Run, detection, segmentation  # noqa: F401

pytestmark = pytest.mark.slow

FOLDERS = {
    library.__name__: Path(library.__file__).parent / '.mim/tools'
    for library in (mmseg, mmdet)
}
TTA = {
    'segmentation': dict(
        tta_model=dict(type='SegTTAModel'),
        tta_pipeline=[
            dict(type='LoadImageFromFile'),
            dict(
                type='TestTimeAug',
                transforms=[
                    [dict(type='Resize', scale=(192, 96), keep_ratio=True)],
                    [
                        dict(type='RandomFlip', prob=p, direction='horizontal')
                        for p in (0.0, 1.0)
                    ],
                    [dict(type='mmscope.LoadMask')],
                    [dict(type='PackSegInputs')],
                ],
            ),
        ],
        # merged answers do not say which of them exited
        test_evaluator=[dict(type='IoUMetric')],
    ),
    'detection': dict(
        tta_model=dict(
            type='DetTTAModel',
            tta_cfg=dict(
                nms=dict(type='nms', iou_threshold=0.5), max_per_img=8
            ),
        ),
        tta_pipeline=[
            dict(type='LoadImageFromFile'),
            dict(
                type='TestTimeAug',
                transforms=[
                    [dict(type='Resize', scale=(96, 96), keep_ratio=True)],
                    [dict(type='RandomFlip', prob=p) for p in (0.0, 1.0)],
                    [dict(type='LoadAnnotations', with_bbox=True)],
                    [
                        dict(
                            type='PackDetInputs',
                            meta_keys=(
                                'img_id',
                                'img_path',
                                'ori_shape',
                                'img_shape',
                                'scale_factor',
                                'flip',
                                'flip_direction',
                            ),
                        )
                    ],
                ],
            ),
        ],
    ),
}


@pytest.fixture
def upstream(monkeypatch, tmp_path) -> Callable[..., None]:
    """Run a tool of mmseg or mmdet in this process, in a folder of its own."""

    def run(library: str, tool: str, *arguments: object) -> None:
        (path,) = FOLDERS[library].rglob(tool)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, 'argv', [str(path), *map(str, arguments)])
        with single_run():
            runpy.run_path(str(path), run_name='__main__')

    return run


TASKS = [('segmentation', 'mmseg'), ('detection', 'mmdet')]
both = pytest.mark.parametrize(('task', 'library'), TASKS)


@both
def test_testing(request, upstream, capfd, tmp_path, task, library) -> None:
    run: Run = request.getfixturevalue(task)
    upstream(library, 'test.py', run.config, run.last)
    printed = ''.join(capfd.readouterr())
    assert 'exit/rate: ' in printed
    # the task's score on images that exited and on others
    assert 'exit/exited: ' in printed or 'exit/refined: ' in printed


@both
def test_training(request, upstream, tmp_path, task, library) -> None:
    run: Run = request.getfixturevalue(task)
    work_dir = tmp_path / 'work'
    upstream(library, 'train.py', run.config, '--work-dir', work_dir)
    assert (work_dir / 'iter_2.pth').is_file()


@both
def test_test_time_augmentation(
    request, upstream, capfd, tmp_path, task, library
) -> None:
    run: Run = request.getfixturevalue(task)
    cfg = Config.fromfile(run.config)
    cfg.merge_from_dict(TTA[task])
    if task == 'detection':  # mmdet merges boxes, and no masks
        cfg.model.roi_head.update(mask_head=None, mask_roi_extractor=None)
        cfg.test_evaluator = [dict(cfg.test_evaluator[0], metric=['bbox'])]
    cfg.dump(tmp_path / 'tta.py')
    upstream(library, 'test.py', tmp_path / 'tta.py', run.last, '--tta')
    score = 'mIoU: ' if task == 'segmentation' else 'coco/bbox_mAP: '
    assert score in ''.join(capfd.readouterr())


@both
def test_publishing(request, upstream, tmp_path, task, library) -> None:
    run: Run = request.getfixturevalue(task)
    upstream(library, 'publish_model.py', run.last, tmp_path / 'published.pth')
    for _ in range(100):  # the tool does not wait for its last command
        if found := [*tmp_path.glob('published-*.pth')]:
            break
        time.sleep(0.1)
    weights = torch.load(run.last)['state_dict']
    published = torch.load(found[0])['state_dict']
    assert published.keys() == weights.keys()


@both
def test_counting_flops(request, upstream, capfd, task, library) -> None:
    run: Run = request.getfixturevalue(task)
    arguments = dict(
        segmentation=('--shape', 96, 192), detection=('--num-images', 1)
    )
    upstream(library, 'get_flops.py', run.config, *arguments[task])
    assert 'Flops: ' in ''.join(capfd.readouterr())


@both
def test_browsing_the_dataset(
    request, upstream, tmp_path, task, library
) -> None:
    run: Run = request.getfixturevalue(task)
    shown = tmp_path / 'shown'
    upstream(
        library,
        'analysis_tools/browse_dataset.py',
        *(run.config, '--output-dir', shown, '--not-show'),
    )
    assert len([*shown.rglob('*.*')]) == 12


@both
def test_analyzing_logs(request, upstream, tmp_path, task, library) -> None:
    run: Run = request.getfixturevalue(task)
    (log,) = run.config.parent.glob('*/vis_data/scalars.json')
    assert 'loss' in json.loads(log.read_text().splitlines()[0])
    arguments = [log, '--keys', 'loss', 'loss_exit']
    if library == 'mmdet':
        arguments = ['plot_curve', *arguments, '--style', 'default']
    else:
        pytest.importorskip('seaborn', reason='mmseg plots logs with seaborn')
    arguments += ['--out', tmp_path / 'curve.png']
    upstream(library, 'analyze_logs.py', *arguments)
    assert (tmp_path / 'curve.png').stat().st_size > 0


def test_mmsegs_benchmark(request, upstream, tmp_path) -> None:
    run: Run = request.getfixturevalue('segmentation')
    cfg = Config.fromfile(run.config)
    # it takes the mean over 200 images
    cfg.test_dataloader.sampler = dict(type='InfiniteSampler', shuffle=False)
    cfg.dump(tmp_path / 'endless.py')
    upstream(
        'mmseg',
        'benchmark.py',
        *(tmp_path / 'endless.py', run.last, '--work-dir', tmp_path / 'fps'),
    )
    (report,) = (tmp_path / 'fps').glob('*.json')
    assert json.loads(report.read_text())['average_fps'] > 0


def test_mmdets_benchmark_of_data(request, upstream, capfd) -> None:
    """That of inference asks for a GPU."""
    run: Run = request.getfixturevalue('detection')
    upstream(
        'mmdet',
        'benchmark.py',
        *(run.config, '--task', 'dataloader', '--max-iter', 8),
        *('--num-warmup', 1, '--log-interval', 1),
    )
    assert 'fps' in ''.join(capfd.readouterr())

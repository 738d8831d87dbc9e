"""Every tool on a classifier: what one writes, the others read."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import cv2
import mmengine
import numpy as np
import pytest
import torch
from classes import COLOURS, write_classifier
from mmpretrain.evaluation import Accuracy
from test_train_and_test import launch

from mmscope.apis import ScopeInferencer


class Trained(NamedTuple):
    """The config that a training wrote, its checkpoint, and its data."""

    config: Path
    checkpoint: Path
    data: Path


@pytest.fixture(scope='module')
def trained(train, tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp('classes')
    train(write_classifier(folder), folder / 'work')
    work = folder / 'work'
    return Trained(
        work / 'classifier.py', work / 'epoch_2.pth', folder / 'data/val'
    )


def test_predictions_are_those_that_were_measured(
    run_tool, trained, tmp_path
) -> None:
    run_tool(
        *('test.py', trained.config, trained.checkpoint, '--eta', 0.5),
        *('--out', tmp_path / 'out', '--work-dir', tmp_path / 'work'),
    )
    metrics = json.loads((tmp_path / 'out/metrics.json').read_text())
    dumped = mmengine.load(tmp_path / 'out/predictions.pkl')
    assert len(dumped) == 12
    scores = torch.stack([one['pred_score'] for one in dumped])
    labels = torch.cat([one['gt_label'] for one in dumped])
    (top1,) = Accuracy.calculate(scores, labels, topk=(1,))[0]
    assert metrics['accuracy/top1'] == pytest.approx(top1.item())
    decisions = json.loads((tmp_path / 'out/exits.json').read_text())
    exited = [one['exited'] for one in dumped]
    assert [one['exited'] for one in decisions] == exited
    assert metrics['exit/rate'] == pytest.approx(np.mean(exited))
    assert metrics['eta'] == 0.5


def test_pictures_show_what_the_model_saw_in_its_colours(
    run_tool, trained, tmp_path
) -> None:
    run_tool(
        *('test.py', trained.config, trained.checkpoint),
        *('--show-dir', tmp_path / 'shown', '--work-dir', tmp_path / 'work'),
    )
    shown = {path.name: path for path in (tmp_path / 'shown').iterdir()}
    files = {path.name: path for path in trained.data.glob('*/*.png')}
    assert set(shown) == {f'{name}.png' for name in files}
    for name, colour in COLOURS.items():
        picture = cv2.imread(str(shown[f'{name}_0.png.png']))
        assert min(picture.shape[:2]) == 336
        # below the text, which is on black
        mean = picture[150:].reshape(-1, 3).mean(0)
        np.testing.assert_allclose(mean, colour, atol=8)
        assert picture[10:40, 10:200].mean() < 0.9 * mean.mean()


def test_equal_names_in_a_folder_of_pictures_are_refused(
    run_tool, trained, tmp_path
) -> None:
    data = tmp_path / 'data'
    for name in COLOURS:
        (data / 'val' / name).mkdir(parents=True)
        source = next((trained.data / name).iterdir())
        (data / 'val' / name / 'same.png').write_bytes(source.read_bytes())
    with pytest.raises(ValueError, match=r'same\.png'):
        run_tool(
            *('test.py', trained.config, trained.checkpoint),
            *('--show-dir', tmp_path / 'shown'),
            *('--work-dir', tmp_path / 'work', '--cfg-options'),
            f'test_dataloader.dataset.data_root={data}',
        )


def test_sweep_and_calibration_agree_with_a_test(
    run_tool, trained, tmp_path
) -> None:
    files = trained.config, trained.checkpoint
    run_tool(
        *('eta_sweep.py', *files, '--out-dir', tmp_path / 'sweep'),
        *('--eta', 0, 0.5, 1, '--draws', 2, '--num-pictures', 2),
    )
    sweep = json.loads((tmp_path / 'sweep/sweep.json').read_text())
    for record, stage in zip(sweep['sweep'], sweep['stages'], strict=True):
        right = stage['coarse_right'] + stage['fine_right']
        assert record['top1'] == pytest.approx(100 * right / 12, abs=1e-3)
        assert sum(stage[f'{s}_wrong'] for s in ('coarse', 'fine')) == (
            12 - right
        )
    for name in ('sweep', 'stages', 'pictures'):
        assert (tmp_path / f'sweep/{name}.png').is_file()
    run_tool(
        *('test.py', *files, '--eta', 0.5, '--out', tmp_path / 'out'),
        *('--work-dir', tmp_path / 'work'),
    )
    metrics = json.loads((tmp_path / 'out/metrics.json').read_text())
    middle = sweep['sweep'][1]
    assert metrics['accuracy/top1'] == pytest.approx(middle['top1'], abs=0.01)
    assert metrics['exit/rate'] == pytest.approx(middle['exit_rate'])

    chosen = tmp_path / 'chosen'
    run_tool(
        *('calibrate_eta.py', *files, '--exit-rate', 0.5),
        *('--out-dir', chosen),
    )
    config = chosen / 'classifier_eta.py'
    run_tool(
        *('test.py', config, trained.checkpoint, '--out', tmp_path / 'again'),
        *('--work-dir', tmp_path / 'work'),
    )
    again = json.loads((tmp_path / 'again/metrics.json').read_text())
    assert 0 < again['eta'] <= 1


@pytest.mark.parametrize('source', ['files', 'val'])
def test_scope_is_drawn_on_what_the_model_saw(
    run_tool, trained, tmp_path, source, monkeypatch
) -> None:
    drawn = []
    monkeypatch.setattr(
        'mmscope.visualization.draw_scope', lambda *args: drawn.append(args)
    )
    place = 'val' if source == 'val' else trained.data / 'red'
    run_tool(
        *('visualize_scope.py', place, trained.config, trained.checkpoint),
        *('--num-images', 4, '--out-dir', tmp_path),
    )
    pictures, _, _ = drawn[-1]
    assert len(pictures) == 4
    for picture in pictures:
        assert picture.image.shape == (32, 32, 3)
        assert picture.scores.shape == picture.selected.shape == (32, 32)
        # 2 x 2 cells, of which ceil(0.8 * 4) are refined
        assert picture.selected.all()
        assert picture.coarse.shape == (336, 336, 3)
        assert (picture.truth is None) == (source == 'files')
        if picture.name.startswith('red'):
            mean = picture.image.reshape(-1, 3).mean(0)
            np.testing.assert_allclose(mean, COLOURS['red'][::-1], atol=8)


def test_stages_of_a_classifier_are_plotted(
    run_tool, trained, tmp_path
) -> None:
    run_tool(
        *('visualize_scope.py', 'val', trained.config, trained.checkpoint),
        *('--num-images', 1, '--out-dir', tmp_path),
    )
    assert (tmp_path / 'stages.png').is_file()
    assert (tmp_path / 'sheet.png').is_file()


def test_inferencer_and_demo_classify_files(
    run_tool, trained, tmp_path, capsys
) -> None:
    classify = ScopeInferencer(trained.config, trained.checkpoint, eta=0.5)
    files = sorted((trained.data / 'green').iterdir())
    samples = classify(files)
    assert [one.img_path for one in samples] == list(map(str, files))
    for one in samples:
        assert one.pred_score.shape == (3,)
        assert one.pred_label.item() == one.pred_score.argmax()
    # the preprocessor stands beside the model, as mmpretrain has it
    run_tool(
        *('test.py', trained.config, trained.checkpoint, '--eta', 0.5),
        *('--out', tmp_path / 'out', '--work-dir', tmp_path / 'work'),
    )
    tested = {
        one['img_path']: one['pred_score']
        for one in mmengine.load(tmp_path / 'out/predictions.pkl')
    }
    for one in samples:
        torch.testing.assert_close(one.pred_score, tested[one.img_path])
    array = cv2.imread(str(files[0]))
    (again,) = classify(array)
    torch.testing.assert_close(again.pred_score, samples[0].pred_score)

    run_tool(
        *('image_demo.py', trained.data / 'green'),
        *(trained.config, trained.checkpoint, '--eta', 0.5),
        *('--out-dir', tmp_path / 'demo'),
    )
    records = json.loads((tmp_path / 'demo/exits.json').read_text())
    assert [one['exited'] for one in records] == [s.exited for s in samples]
    assert len(list((tmp_path / 'demo').glob('*.png'))) == 4


def test_costs_of_a_classifier(run_tool, trained, tmp_path, capsys) -> None:
    run_tool('get_flops.py', trained.config, '--shape', 32, 32)
    told = capsys.readouterr().out
    assert re.search(r'exit_head|fine|coarse', told)
    run_tool(
        *('fps_bench.py', '--configs', trained.config, '--resolutions', 32),
        *('--scopes', 'backbone', '--batch-size', 2, '--eta', 0.5),
        *('--repeats', 1, '--no-memory', '--out', tmp_path / 'fps.json'),
    )
    assert json.loads((tmp_path / 'fps.json').read_text())


VIM = """
model = dict(
    _delete_=True,
    type='ImageClassifier',
    backbone=dict(
        type='mmscope.VisionMambaBackbone',
        arch=dict(embed_dims=16, num_layers=3, d_state=4),
        img_size=32,
        patch_size=4,
        out_indices=(2,),
        out_type='cls_token',
    ),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=16),
)
val_evaluator = test_evaluator = [dict(type='Accuracy', topk=(1,))]
crop_size = (32, 32)
"""
MERGING = (
    'model.backbone.token_reduction.type=mmscope.TokenMerging',
    'model.backbone.token_reduction.blocks=1,2',
)


@pytest.fixture(scope='module')
def plain(train, tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp('plain')
    config = write_classifier(folder, 'evidence/imagenette_vim', VIM)
    train(config, folder / 'work')
    work = folder / 'work'
    return Trained(
        work / 'classifier.py', work / 'epoch_2.pth', folder / 'data/val'
    )


def test_plain_weights_are_tried_on_fewer_tokens(
    run_tool, plain, tmp_path
) -> None:
    files = plain.config, plain.checkpoint
    run_tool(
        *('sweep_reduction.py', *files, '--num-merged', 0, 40, 90),
        *('--out-dir', tmp_path / 'sweep', '--cfg-options', *MERGING),
    )
    records = json.loads((tmp_path / 'sweep/reduction.json').read_text())
    costs = [record['gflops'] for record in records]
    assert costs == sorted(costs, reverse=True) and costs[2] < 0.8 * costs[0]
    assert {record['metric'] for record in records} == {'top1'}
    assert (tmp_path / 'sweep/reduction.png').is_file()
    for options, record in (
        ((), records[0]),
        (
            (*MERGING, f'{MERGING[0].split(".type")[0]}.num_merged=90'),
            records[2],
        ),
    ):
        run_tool(
            *('test.py', *files, '--out', tmp_path / 'out'),
            *('--work-dir', tmp_path / 'work'),
            *(('--cfg-options', *options) if options else ()),
        )
        metrics = json.loads((tmp_path / 'out/metrics.json').read_text())
        assert metrics['accuracy/top1'] == pytest.approx(record['score'])


def test_tokens_are_drawn(run_tool, plain, tmp_path) -> None:
    run_tool(
        *('visualize_tokens.py', plain.config, plain.checkpoint),
        *('--num-images', 2, '--out-dir', tmp_path, '--cfg-options'),
        *(*MERGING, f'{MERGING[0].split(".type")[0]}.num_merged=90'),
    )
    assert (tmp_path / 'tokens.png').is_file()


def test_a_model_that_reduces_nothing_has_nothing_to_sweep(
    run_tool, plain, tmp_path
) -> None:
    with pytest.raises(ValueError, match='no model.backbone.token_reduction'):
        run_tool(
            *('sweep_reduction.py', plain.config, plain.checkpoint),
            *('--ratio', 0.5, '--out-dir', tmp_path),
        )


def test_two_processes_draw_without_waiting_for_each_other(
    trained, tmp_path
) -> None:
    """mmengine lets the first one draw alone, its share of the images."""
    launch(
        *('dist_test.sh', trained.config, trained.checkpoint, 2),
        *('--show-dir', tmp_path / 'shown', '--out', tmp_path / 'out'),
        *('--work-dir', tmp_path / 'work'),
    )
    assert len(mmengine.load(tmp_path / 'out/predictions.pkl')) == 12
    assert len(list((tmp_path / 'shown').glob('*.png'))) == 6

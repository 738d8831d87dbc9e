"""The tools about eta, on the sample data and random weights."""

import csv
import json
from pathlib import Path

import pytest
from mmengine.config import Config
from PIL import Image

from mmscope.exits import AnswerCache
from mmscope.utils.checkpoint import CheckpointError

ETAS = ('--eta', 0, 0.5, 1)


@pytest.fixture
def out_dir(tmp_path: Path) -> Path:
    """A folder whose name looks like the markup of what is printed."""
    return tmp_path / 'out[' / ']'


def test_sweep_writes_what_each_eta_gives(
    run_tool, model_files, out_dir, capsys
) -> None:
    run_tool(
        *('eta_sweep.py', *model_files, *ETAS, '--out-dir', out_dir),
        *('--policies', 'pixel', 'chance', '--measure', 0, '--draws', 2),
        *('--num-pictures', 2),
    )
    found = json.loads((out_dir / 'sweep.json').read_text())
    always, _, never = found['sweep']
    assert (always['exit_rate'], never['exit_rate']) == (1, 0)
    assert 0 < always['gflops'] < never['gflops']
    assert always['fps_measured'] > 0
    assert set(found['curves']) == {'oracle', 'random', 'pixel', 'chance'}
    assert found['curves']['pixel'][0]['score'] == pytest.approx(
        never['score']
    )
    assert set(found['quality']) == {'model', 'pixel', 'chance'}
    rows = list(csv.DictReader((out_dir / 'sweep.csv').open()))
    assert [float(row['eta']) for row in rows] == [0, 0.5, 1]
    for name in ('sweep.png', 'stages.png', 'pictures.png'):
        assert min(Image.open(out_dir / name).size) > 200
    assert 'AUROC of "the coarse answer' in capsys.readouterr().out
    # the next run only reads the answers
    (folder,) = out_dir.glob('answers-*')
    times = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    run_tool(
        *('eta_sweep.py', *model_files, *ETAS, '--out-dir', out_dir),
        *('--draws', 2, '--num-pictures', 0),
    )
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == times


def test_oracle_policy_reads_the_losses_of_the_sweep(
    run_tool, model_files, tmp_path
) -> None:
    run_tool(
        *('eta_sweep.py', *model_files, *ETAS, '--out-dir', tmp_path),
        *('--draws', 2, '--num-pictures', 0),
    )
    losses = tmp_path / 'losses.json'
    ordered = sorted(json.loads(losses.read_text()).values())
    policy = 'model.backbone.exit_policy'
    run_tool(
        *('eta_sweep.py', *model_files, *ETAS, '--out-dir', tmp_path / 'b'),
        *('--draws', 2, '--num-pictures', 0, '--tolerance', ordered[0]),
        *('--cfg-options', f'{policy}.type=mmscope.OracleExit'),
        f'{policy}.losses={losses}',
    )
    found = json.loads((tmp_path / 'b' / 'sweep.json').read_text())
    assert found['quality']['model']['auroc'] == pytest.approx(1)


def test_calibrated_config_is_one_that_tests(
    run_tool, model_files, out_dir, capsys
) -> None:
    run_tool(
        *('calibrate_eta.py', *model_files, '--exit-rate', 0.5),
        *('--num-images', 6, '--out-dir', out_dir),
    )
    found = json.loads((out_dir / 'calibration.json').read_text())
    assert found['images'] == 6
    assert found['expected']['exit_rate'] == 0.5
    assert 'exit/rate' in found['validation']
    assert 'on validation:' in capsys.readouterr().out
    (config,) = out_dir.glob('*_eta.py')
    assert Config.fromfile(config).model.backbone.eta == found['eta']
    run_tool(
        *('test.py', config, model_files[1], '--work-dir', out_dir / 'test'),
        *('--out', out_dir / 'out'),
    )
    tested = json.loads((out_dir / 'out' / 'metrics.json').read_text())
    assert tested['eta'] == found['eta']
    assert tested['exit/rate'] == found['validation']['exit/rate']


def test_calibration_reads_its_own_images_where_there_are(
    run_tool, save_weights, tmp_path
) -> None:
    files = save_weights(
        more='calibration_dataloader = dict(**val_dataloader)\n'
        "calibration_dataloader['dataset'] = dict(\n"
        '    **{**_base_.train_dataloader.dataset, **dict(\n'
        "        data_root=train_dataloader['dataset']['data_root'],\n"
        '        pipeline=test_pipeline, indices=-2)})\n'
    )
    run_tool(
        *('calibrate_eta.py', *files, '--max-drop', 100),
        *('--out-dir', tmp_path),
    )
    found = json.loads((tmp_path / 'calibration.json').read_text())
    assert found['images'] == 2
    assert found['eta'] == 0


def test_calibration_keeps_what_the_command_line_changed(
    run_tool, save_weights, tmp_path
) -> None:
    """And reads training images, each once, however they are wrapped.

    Weights that the config would load are not those that were asked for.
    """
    config, weights = save_weights(
        more="train_dataloader['dataset'] = dict(_delete_=True, "
        "type='RepeatDataset', times=3, dataset=dict("
        '    **{**_base_.train_dataloader.dataset, '
        "    **train_dataloader['dataset']}))\n"
    )
    options = (
        *('model.backbone.alpha=0.25', 'val_cfg.fp16=False'),
        'load_from=gone.pth',
    )
    run_tool(
        *('calibrate_eta.py', config, weights, '--exit-rate', 0.5),
        *('--num-images', 99, '--out-dir', tmp_path),
        *('--cfg-options', *options),
    )
    found = json.loads((tmp_path / 'calibration.json').read_text())
    assert found['images'] == 12
    written = Config.fromfile(tmp_path / f'{config.stem}_eta.py')
    assert written.model.backbone.alpha == 0.25
    assert written.model.backbone.eta == found['eta']
    assert written.val_cfg.fp16 is False
    assert written.load_from == 'gone.pth'
    assert written.train_dataloader.dataset.times == 3


def test_calibration_in_the_work_dir_leaves_its_config(
    run_tool, save_weights
) -> None:
    """The config that a training wrote there is what eta's config extends."""
    config, weights = save_weights()
    Config.fromfile(config).dump(config)
    before = config.read_text()
    run_tool(
        *('calibrate_eta.py', config, weights, '--exit-rate', 0.5),
        *('--cfg-options', f'work_dir={config.parent}'),
        'model.backbone.exit_policy.type=mmscope.PixelConfidence',
    )
    assert config.read_text() == before
    written = Config.fromfile(
        config.parent / f'calibration/{config.stem}_eta.py'
    )
    policy = written.model.backbone.exit_policy
    assert policy.type == 'mmscope.PixelConfidence'
    found = Config.fromfile(config).test_dataloader
    assert written.test_dataloader == found


def test_failing_validation_and_pictures_lose_no_results(
    run_tool, model_files, tmp_path, monkeypatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError('in the end')

    monkeypatch.setattr('mmengine.runner.Runner.test', fail)
    with pytest.raises(RuntimeError, match='in the end'):
        run_tool(
            *('calibrate_eta.py', *model_files, '--exit-rate', 0.5),
            *('--num-images', 2, '--out-dir', tmp_path),
        )
    found = json.loads((tmp_path / 'calibration.json').read_text())
    (config,) = tmp_path.glob('*_eta.py')
    assert Config.fromfile(config).model.backbone.eta == found['eta']
    monkeypatch.setattr('mmscope.exits.plots.plot_sweep', fail)
    with pytest.raises(RuntimeError, match='in the end'):
        run_tool(
            *('eta_sweep.py', *model_files, *ETAS, '--out-dir', tmp_path),
            *('--draws', 2, '--measure', 0.75),
        )
    sweep = json.loads((tmp_path / 'sweep.json').read_text())['sweep']
    # what is measured is a threshold, too
    assert [record['eta'] for record in sweep] == [0, 0.5, 0.75, 1]
    assert [r['eta'] for r in sweep if 'fps_measured' in r] == [0.75]
    assert len(json.loads((tmp_path / 'losses.json').read_text())) == 3


def test_windows_are_calibrated_swept_and_tested_alike(
    run_tool, model_files, tmp_path
) -> None:
    """Slide inference, as the written config says."""
    config, weights = model_files
    run_tool(
        *('calibrate_eta.py', config, weights, '--exit-rate', 0.5),
        *('--num-images', 4, '--out-dir', tmp_path),
        *('--cfg-options', 'model.test_cfg.mode=slide'),
        'model.test_cfg.crop_size=(64,96)',
        'model.test_cfg.stride=(32,48)',
    )
    found = json.loads((tmp_path / 'calibration.json').read_text())
    # the nearest that a few windows allow
    assert found['expected']['exit_rate'] == pytest.approx(0.5, abs=0.13)
    rate = found['validation']['exit/rate']
    assert 0 < rate < 1
    run_tool(
        *('eta_sweep.py', tmp_path / f'{config.stem}_eta.py', weights),
        *('--eta', 0, found['eta'], 1, '--draws', 2, '--out-dir', tmp_path),
    )
    assert (tmp_path / 'pictures.png').is_file()
    _, record, _ = json.loads((tmp_path / 'sweep.json').read_text())['sweep']
    assert record['exit_rate'] == pytest.approx(rate, abs=1e-4)
    assert record['mIoU'] == pytest.approx(
        found['validation']['mIoU'], abs=0.011
    )


def test_thresholds_outside_of_0_to_1_are_refused(
    run_tool, model_files, capsys
) -> None:
    for option in ('--eta', '--measure'):
        with pytest.raises(SystemExit):
            run_tool('eta_sweep.py', *model_files, option, 1.5)
        assert '1.5 is not in [0, 1]' in capsys.readouterr().err
    for tau in ('nan', 'inf'):
        with pytest.raises(SystemExit):
            run_tool('eta_sweep.py', *model_files, '--tau', tau)
        assert f'{tau} is not finite' in capsys.readouterr().err


def test_budget_out_of_reach(run_tool, model_files, tmp_path) -> None:
    with pytest.raises(ValueError, match='images per second is out of reach'):
        run_tool(
            *('calibrate_eta.py', *model_files, '--fps', 1e9),
            *('--num-images', 2, '--out-dir', tmp_path),
        )


@pytest.mark.parametrize(
    ('tool', 'options'),
    [
        ('eta_sweep.py', ()),
        ('calibrate_eta.py', ('--exit-rate', 0.5)),
        ('train_router.py', ()),
    ],
)
def test_model_without_exits_is_refused(
    run_tool, save_weights, tmp_path, tool, options
) -> None:
    files = save_weights(base='vim_t_ade20k')
    with pytest.raises(ValueError, match=r'needs a model with early exits'):
        run_tool(tool, *files, *options, '--out-dir', tmp_path)


def test_config_without_test_set_is_refused(
    run_tool, save_weights, tmp_path
) -> None:
    files = save_weights(more='test_dataloader = None\n')
    with pytest.raises(ValueError, match='has no test_dataloader'):
        run_tool('eta_sweep.py', *files, '--out-dir', tmp_path)


def test_checkpoint_of_another_model_is_refused(
    run_tool, model_files, save_weights, tmp_path
) -> None:
    _, other = save_weights(base='vim_t_ade20k')
    with pytest.raises(CheckpointError, match=r'weights differ: .*exit_head'):
        run_tool('eta_sweep.py', model_files[0], other, '--out-dir', tmp_path)


def test_router_is_trained_and_used(
    run_tool, model_files, out_dir, capsys
) -> None:
    run_tool(
        *('train_router.py', *model_files, '--out-dir', out_dir),
        *('--tolerance', 0.0, '--cfg-options', 'val_cfg.fp16=False'),
    )
    assert 'AUROC' in capsys.readouterr().out
    (config,) = out_dir.glob('*_router.py')
    assert Config.fromfile(config).val_cfg.fp16 is False
    run_tool(
        *('eta_sweep.py', config, out_dir / 'router.pth', *ETAS),
        *('--out-dir', out_dir / 'sweep', '--draws', 2),
        *('--num-pictures', 0, '--policies', 'mean_positive'),
        *('--tolerance', 0.0),
    )
    (folder,) = (out_dir / 'sweep').glob('answers-*')
    cache = AnswerCache(folder)
    confidences = [
        cache.load(path.stem).confidence for path in folder.glob('*.pth')
    ]
    assert len(confidences) == 3
    for one in confidences:
        assert abs(one['model'] - one['mean_positive']) > 1e-3


def test_pairs_of_thresholds_from_sweep_to_test(
    run_tool, save_weights, tmp_path
) -> None:
    """What an elastic model's sweep and calibration write, test.py reads."""
    files = save_weights(
        more="model['backbone'].update(alpha=(0.2, 0.5, 1.0), "
        "cell_score=dict(type='mmscope.CoarseUncertainty'), "
        "exit_policy=dict(type='mmscope.PixelConfidence'))\n"
    )
    run_tool(
        *('eta_sweep.py', *files, *ETAS, '--out-dir', tmp_path),
        *('--draws', 2, '--num-pictures', 0),
    )
    found = json.loads((tmp_path / 'elastic.json').read_text())
    costs = [record['gflops'] for record in found['frontier']]
    scores = [record['score'] for record in found['frontier']]
    assert costs == sorted(costs)
    assert scores == sorted(scores)
    taus = {record['tau'] for record in found['records']}
    assert None in taus
    assert len(taus) > 3
    rows = list(csv.DictReader((tmp_path / 'elastic.csv').open()))
    assert len(rows) == len(costs)
    assert min(Image.open(tmp_path / 'elastic.png').size) > 200

    budget = (min(costs) + max(costs)) / 2
    run_tool(
        *('calibrate_eta.py', *files, '--gflops', budget),
        *('--num-images', 6, '--out-dir', tmp_path / 'fit'),
    )
    fit = json.loads((tmp_path / 'fit' / 'calibration.json').read_text())
    assert fit['expected']['gflops'] <= budget
    (config,) = (tmp_path / 'fit').glob('*_eta.py')
    backbone = Config.fromfile(config).model.backbone
    assert (backbone.eta, backbone.tau) == (fit['eta'], fit['tau'])
    run_tool(
        *('test.py', config, files[1], '--work-dir', tmp_path / 'test'),
        *('--out', tmp_path / 'out'),
    )
    tested = json.loads((tmp_path / 'out' / 'metrics.json').read_text())
    assert tested['mIoU'] == fit['validation']['mIoU']
    assert tested['exit/rate'] == fit['validation']['exit/rate']


def test_table_of_cell_scores(run_tool, model_files, tmp_path, capsys) -> None:
    run_tool(
        *('compare_cells.py', *model_files, '--alphas', 0.5, 1),
        *('--scores', 'importance', 'uncertainty', 'chance'),
        *('--out-dir', tmp_path),
    )
    found = json.loads((tmp_path / 'cells.json').read_text())
    names = [record['cells'] for record in found]
    assert names == ['none'] + [
        name
        for name in ('importance', 'uncertainty', 'chance')
        for _ in range(2)
    ]
    rows = list(csv.DictReader((tmp_path / 'cells.csv').open()))
    assert [row['cells'] for row in rows] == names
    assert min(Image.open(tmp_path / 'cells.png').size) > 200
    printed = capsys.readouterr().out
    assert 'all exit:' in printed
    assert 'unimportance' not in printed

"""The tools about eta, on the sample data and random weights."""

import csv
import json

import pytest
from mmengine.config import Config
from PIL import Image

from mmscope.utils.checkpoint import CheckpointError

ETAS = ('--eta', 0, 0.5, 1)


def test_sweep_writes_what_each_eta_gives(
    run_tool, model_files, tmp_path, capsys
) -> None:
    run_tool(
        *('eta_sweep.py', *model_files, *ETAS, '--out-dir', tmp_path),
        *('--policies', 'pixel', 'chance', '--measure', 0, '--draws', 2),
        *('--num-pictures', 2),
    )
    found = json.loads((tmp_path / 'sweep.json').read_text())
    always, _, never = found['sweep']
    assert (always['exit_rate'], never['exit_rate']) == (1, 0)
    assert 0 < always['gflops'] < never['gflops']
    assert always['fps_measured'] > 0
    assert set(found['curves']) == {'oracle', 'random', 'pixel', 'chance'}
    assert found['curves']['pixel'][0]['score'] == pytest.approx(
        never['score']
    )
    assert set(found['quality']) == {'model', 'pixel', 'chance'}
    rows = list(csv.DictReader((tmp_path / 'sweep.csv').open()))
    assert [float(row['eta']) for row in rows] == [0, 0.5, 1]
    for name in ('sweep.png', 'stages.png', 'pictures.png'):
        assert min(Image.open(tmp_path / name).size) > 200
    assert 'AUROC of "the coarse answer' in capsys.readouterr().out
    # the next run only reads the answers
    (folder,) = tmp_path.glob('answers-*')
    times = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    run_tool(
        *('eta_sweep.py', *model_files, *ETAS, '--out-dir', tmp_path),
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
    run_tool, model_files, tmp_path, capsys
) -> None:
    run_tool(
        *('calibrate_eta.py', *model_files, '--exit-rate', 0.5),
        *('--num-images', 6, '--out-dir', tmp_path),
    )
    found = json.loads((tmp_path / 'calibration.json').read_text())
    assert found['images'] == 6
    assert found['expected']['exit_rate'] == 0.5
    assert 'exit/rate' in found['validation']
    assert 'on validation:' in capsys.readouterr().out
    (config,) = tmp_path.glob('*_eta.py')
    assert Config.fromfile(config).model.backbone.eta == found['eta']
    run_tool(
        *('test.py', config, model_files[1], '--work-dir', tmp_path / 'test'),
        *('--out', tmp_path / 'out'),
    )
    tested = json.loads((tmp_path / 'out' / 'metrics.json').read_text())
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
    run_tool, model_files, tmp_path, capsys
) -> None:
    run_tool(
        *('train_router.py', *model_files, '--out-dir', tmp_path),
        *('--tolerance', 0.0),
    )
    assert 'AUROC' in capsys.readouterr().out
    (config,) = tmp_path.glob('*_router.py')
    run_tool(
        *('eta_sweep.py', config, tmp_path / 'router.pth', *ETAS),
        *('--out-dir', tmp_path / 'sweep', '--draws', 2),
        *('--num-pictures', 0, '--policies', 'mean_positive'),
    )
    found = json.loads((tmp_path / 'sweep' / 'sweep.json').read_text())
    assert found['quality']['model'] != found['quality']['mean_positive']

"""Rows are trained, resumed, skipped and set beside the paper's figures."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from single_run import single_run

from mmscope.engine.ablation import AblationRun, read_tables, write_report
from mmscope.engine.ablation.records import read_record, write_record

CONFIGS = Path(__file__).parents[2] / 'configs' / 'ablation'
TABLES = read_tables(CONFIGS)
SIDE = 32
OPTIONS = {
    'model.backbone.arch.embed_dims': 16,
    'model.backbone.arch.d_state': 4,
    'model.backbone.img_size': SIDE,
    'train_dataloader.batch_size': 4,
    'train_dataloader.num_workers': 0,
    'val_dataloader.num_workers': 0,
    'test_dataloader.num_workers': 0,
    'train_dataloader.dataset.pipeline.1.scale': SIDE,
    'val_dataloader.dataset.pipeline.1.scale': SIDE,
    'val_dataloader.dataset.pipeline.2.crop_size': SIDE,
    'test_dataloader.dataset.pipeline.1.scale': SIDE,
    'test_dataloader.dataset.pipeline.2.crop_size': SIDE,
}


@pytest.fixture(scope='module')
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes, in Imagenette's folders."""
    root = tmp_path_factory.mktemp('pictures')
    rng = np.random.default_rng(0)
    for split, count in dict(train=2, val=1).items():
        for label in range(10):
            folder = root / split / f'class{label}'
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f'{number}.png')
    return root


def make_run(pictures: Path, work_dir: Path, **options) -> AblationRun:
    return AblationRun(
        CONFIGS,
        work_dir,
        dataset='imagenette',
        data=str(pictures),
        epochs=2,
        options={**OPTIONS, **options},
    )


@pytest.fixture(scope='module')
def finished(
    pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> AblationRun:
    """A run with the default row of Table 4 trained and tested."""
    run = make_run(pictures, tmp_path_factory.mktemp('finished'))
    with single_run():
        run.run(TABLES['table4'], 'max_softplus')
    return run


@pytest.fixture
def copied(finished: AblationRun, tmp_path: Path) -> AblationRun:
    """The same, to be changed."""
    shutil.copytree(finished.work_dir, tmp_path / 'copied')
    return replace(finished, work_dir=tmp_path / 'copied')


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / 'epoch_2.pth'
    return torch.load(path, weights_only=True)['state_dict']


def logs_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob('*.log'))


def test_a_row_leaves_checkpoint_config_and_result(
    finished: AblationRun,
) -> None:
    table = TABLES['table4']
    folder = finished.folder(table, 'max_softplus')
    assert finished.state(table, 'max_softplus') == 'finished'
    result = finished.results(table)['max_softplus']
    assert 0 <= result.top1 <= result.top5 <= 100
    assert result.exit_rate == 0
    assert 0 < result.gflops_coarse < result.gflops
    assert result.trained_as == folder.name == 'table4_max_softplus'
    # options are in the config that the run wrote
    text = (folder / 'table4_max_softplus.py').read_text()
    assert re.search(r'max_epochs=2\b', text)
    assert re.search(r'momentum=0\.006', text)
    assert not (folder / 'epoch_3.pth').exists()


def test_its_files_are_those_of_the_other_tools(
    finished: AblationRun, run_tool: Callable, tmp_path: Path
) -> None:
    table = TABLES['table4']
    folder = finished.folder(table, 'max_softplus')
    run_tool(
        'test.py',
        *(folder / 'table4_max_softplus.py', folder / 'epoch_2.pth'),
        *('--work-dir', tmp_path / 'work', '--out', tmp_path / 'out'),
    )
    metrics = json.loads((tmp_path / 'out/metrics.json').read_text())
    result = finished.results(table)['max_softplus']
    assert metrics['accuracy/top1'] == pytest.approx(result.top1)
    assert metrics['accuracy/top5'] == pytest.approx(result.top5)


def test_a_finished_row_is_skipped(copied: AblationRun) -> None:
    table = TABLES['table4']
    folder = copied.folder(table, 'max_softplus')
    before = logs_of(folder)
    with single_run():
        again = copied.run(table, 'max_softplus')
    assert logs_of(folder) == before
    assert again == copied.results(table)['max_softplus']


def test_an_unfinished_row_goes_on_where_it_was(copied: AblationRun) -> None:
    table = TABLES['table4']
    folder = copied.folder(table, 'max_softplus')
    result, weights = copied.results(table)['max_softplus'], weights_of(folder)
    # as it was when its second epoch was stopped
    record = read_record(folder)
    write_record(folder, record['settings'])
    (folder / 'epoch_2.pth').unlink()
    shutil.rmtree(folder / 'test')
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
    before = logs_of(folder)
    first_epoch = re.compile(r'Epoch\(train\)\s+\[1\]')
    assert any(first_epoch.search(path.read_text()) for path in before)

    assert copied.state(table, 'max_softplus') == 'unfinished'
    assert copied.results(table) == {}
    with single_run():
        again = copied.run(table, 'max_softplus')
    new = set(logs_of(folder)) - set(before)
    assert not any(first_epoch.search(path.read_text()) for path in new)
    torch.testing.assert_close(weights_of(folder), weights, rtol=0, atol=0)
    assert again == result


def test_a_row_that_was_only_not_tested_is_tested(copied: AblationRun) -> None:
    table = TABLES['table4']
    folder = copied.folder(table, 'max_softplus')
    result = copied.results(table)['max_softplus']
    write_record(folder, read_record(folder)['settings'])
    with single_run():
        assert copied.run(table, 'max_softplus') == result


def test_equal_settings_are_trained_once(copied: AblationRun) -> None:
    """The default is a row of every table."""
    table = TABLES['table6']
    with single_run():
        result = copied.run(table, 'beta099')
    assert result.trained_as == 'table4_max_softplus'
    assert logs_of(copied.folder(table, 'beta099')) == []
    assert copied.state(table, 'beta099') == 'finished'


def test_other_settings_are_not_taken_for_the_same(
    copied: AblationRun,
) -> None:
    table = TABLES['table4']
    other = replace(copied, epochs=3, seed=1)
    with pytest.raises(ValueError, match=r'max_epochs=2 \(asked: 3\)'):
        other.state(table, 'max_softplus')
    with pytest.raises(ValueError, match=r'seed=0 \(asked: 1\)'):
        replace(copied, seed=1).run(table, 'max_softplus')
    assert other.results(table) == {}
    more_workers = {**copied.options, 'train_dataloader.num_workers': 2}
    same = replace(copied, options=more_workers)
    assert same.state(table, 'max_softplus') == 'finished'
    (copied.folder(table, 'max_softplus') / 'ablation.json').unlink()
    with pytest.raises(ValueError, match='no record of their settings'):
        copied.state(table, 'max_softplus')


def test_options_may_not_undo_the_table(pictures: Path, tmp_path) -> None:
    run = make_run(pictures, tmp_path, **{'model.backbone.alpha': 0.3})
    with pytest.raises(ValueError, match='rows alpha05 and alpha06 of table5'):
        run.check_rows(TABLES['table5'], ['alpha05', 'alpha06'])
    run.check_rows(TABLES['table6'], ['beta0', 'beta05'])


def test_the_report_sets_both_figures_side_by_side(
    copied: AblationRun,
) -> None:
    table = TABLES['table4']
    results = copied.results(table)
    json_file, markdown = write_report(copied, table, results)
    report = json.loads(json_file.read_text())
    by_name = {row['name']: row for row in report['rows']}
    top1 = results['max_softplus'].top1
    assert by_name['max_softplus']['result']['top1'] == top1
    assert by_name['max_softplus']['top1'] == 88.0
    assert by_name['l2']['result'] is None
    text = markdown.read_text()
    assert re.search(rf'max_softplus \| .* \| 88\.0 \| {top1:.1f} \|', text)
    assert re.search(r'l2 \| L2 norm \| 86\.7 \| not yet measured \|', text)
    assert 'dataset differs: paper miniImageNet, here Imagenette' in text
    assert 'model.backbone.arch.embed_dims=16' in text
    own = replace(copied, dataset='mini_imagenet', data=None)
    _, markdown = write_report(own, table, {})
    assert 'dataset differs' not in markdown.read_text()


def test_the_tool(
    copied: AblationRun, pictures: Path, run_tool: Callable, capsys
) -> None:
    arguments = (
        *('table7', '--dataset', 'imagenette', '--data', pictures),
        *('--epochs', 2, '--work-dir', copied.work_dir),
    )
    options = '--cfg-options', *(f'{k}={v}' for k, v in OPTIONS.items())
    run_tool('ablate.py', *arguments, '--rows', 'last6', 'last12', *options)
    output = capsys.readouterr().out
    assert 'table7: last6, 1 of 2, new' in output
    assert re.search(r'last12 .* 87\.0 .* \d+\.\d .*\n', output)
    rows = json.loads((copied.work_dir / 'table7.json').read_text())['rows']
    results = [row['result'] for row in rows]
    assert results[0]['trained_as'] == 'table7_last6'
    assert results[1]['trained_as'] == 'table4_max_softplus'
    assert results[2] is None
    assert results[0]['gflops'] == results[1]['gflops']
    for wrong in (('table3',), (*arguments, '--rows', 'last5')):
        with pytest.raises(SystemExit, match='ablate: .*; choose from'):
            run_tool('ablate.py', *wrong)

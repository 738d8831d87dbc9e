"""Tools give the same figures in several processes as in one."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from processes import run_tools

# what depends on how busy the machine is
TIMED = {'fps', 'fps_measured', 'seconds'}
BY_SHARE = '--cfg-options', 'model.backbone.alpha=[0.25,0.5]'


def commands(files: tuple[Path, Path], folder: Path) -> list[list[object]]:
    """A sweep, a calibration and a test of the same weights."""
    return [
        [
            *('eta_sweep.py', *files, '--eta', 0, 0.5, 1, '--draws', 2),
            *('--policies', 'pixel', '--num-pictures', 1),
            *('--out-dir', folder / 'sweep', *BY_SHARE),
        ],
        [
            *('calibrate_eta.py', *files, '--exit-rate', 0.5),
            *('--num-images', 7, '--out-dir', folder / 'fitted'),
        ],
        [
            *('test.py', *files, '--eta', 0.6, '--out', folder / 'test'),
            *('--work-dir', folder / 'logs'),
        ],
    ]


def untimed(value: object) -> object:
    """A record without what takes time, as plain numbers."""
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if k not in TIMED}
    if isinstance(value, list):
        return [untimed(one) for one in value]
    return value


def figures(folder: Path) -> dict[str, object]:
    """All that the commands wrote into files of figures."""
    found = {
        str(path.relative_to(folder)): untimed(json.loads(path.read_text()))
        for name in ('sweep', 'fitted', 'test')
        for path in (folder / name).glob('*.json')
    }
    with (folder / 'sweep' / 'elastic.csv').open() as file:
        found['elastic.csv'] = untimed(list(csv.DictReader(file)))
    (config,) = (folder / 'fitted').glob('*_eta.py')
    found['eta'] = Config.fromfile(config).model.backbone.eta
    return found


@pytest.mark.slow
@pytest.mark.parametrize('count', [2, 4])
def test_figures_are_those_of_one_process(
    run_tool, model_files, tmp_path, count
) -> None:
    one, several = tmp_path / 'one', tmp_path / 'several'
    for command in commands(model_files, one):
        run_tool(*command)
    printed = run_tools(count, tmp_path, *commands(model_files, several))
    expected, found = figures(one), figures(several)
    assert 'sweep/sweep.json' in expected
    assert 'test/exits.json' in expected
    np.testing.assert_equal(found, expected)
    # one process tells, however many there are
    assert printed.count('written to ') == 1
    assert printed.count('on validation:') == 1

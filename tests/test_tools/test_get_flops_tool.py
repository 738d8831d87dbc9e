"""tools/get_flops.py."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmscope.benchmark.build import build_model
from mmscope.utils.flops import model_flops


def test_counts_are_printed_and_written(
    run_tool, tiny_config, tmp_path: Path, capsys
) -> None:
    out = tmp_path / 'flops.json'
    run_tool(
        'get_flops.py',
        *(tiny_config(), '--shape', 64, 96, '--exit-rate', 0.25),
        *('--out', out),
    )
    printed = capsys.readouterr().out
    assert '64 x 96, convention two_direction' in printed
    flops = json.loads(out.read_text())['flops']
    exits, refined = (
        sum(flops[name].values())
        for name in ('exits, in all', 'refined, in all')
    )
    expected = sum(flops['25 % exit'].values())
    assert expected == pytest.approx(0.25 * exits + 0.75 * refined)
    assert f'{expected / 1e9:.3f}' in printed


def test_mean_over_the_test_images(
    run_tool, tiny_config, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)  # for its log
    config, checkpoint = tiny_config(), tmp_path / 'sure.pth'
    state = build_model(Config.fromfile(config)).state_dict()
    state['backbone.exit_head.fc.bias'] += 9
    torch.save(dict(state_dict=state), checkpoint)
    run_tool('get_flops.py', config, '--checkpoint', checkpoint, '--eta', 0.9)
    assert '3 test images, exit rate 1.0000' in capsys.readouterr().out


LADDER = """
model['backbone'].update(alpha=(0.2, 0.5, 1.0), tau={tau},
                         cell_score=dict(type='mmscope.CellContrast'))
"""


def test_an_elastic_model_has_a_row_for_each_share(
    run_tool, tiny_config, tmp_path: Path, capsys
) -> None:
    out = tmp_path / 'flops.json'
    run_tool(
        'get_flops.py',
        *(tiny_config(LADDER.format(tau=0.01)), '--shape', 64, 96),
        *('--out', out),
    )
    rows = {
        cells[0].strip(): float(cells[-1])
        for line in capsys.readouterr().out.splitlines()
        if len(cells := line.strip('│').split('│')) > 2 and '.' in cells[-1]
    }
    shares = (0.2, 0.5, 1)
    names = [f'share {share}, in all' for share in shares]
    assert list(rows) == ['coarse pass', 'exits, in all', *names]
    written = json.loads(out.read_text())['flops']
    for share, name in zip(shares, names, strict=True):
        one = f"model['backbone']['alpha'] = {share}\n"
        model = build_model(Config.fromfile(tiny_config(one)))
        expected = model_flops(model, (64, 96)).refined
        assert Counter(written[name]) == expected
        assert rows[name] == pytest.approx(expected.total() / 1e9, abs=6e-4)


def test_an_elastic_mean_goes_by_the_share_of_each_image(
    run_tool, tiny_config, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)  # for its log
    config = tiny_config(LADDER.format(tau=0.01))
    checkpoint = tmp_path / 'weights.pth'
    state = build_model(Config.fromfile(config)).state_dict()
    torch.save(dict(state_dict=state), checkpoint)
    test = (config, checkpoint, '--out', tmp_path / 'test', '--eta', 1)
    run_tool('test.py', *test)
    exits = json.loads((tmp_path / 'test' / 'exits.json').read_text())
    shares = [one['share'] for one in exits]
    assert len(set(shares)) > 1
    out = tmp_path / 'flops.json'
    run_tool(
        *('get_flops.py', config, '--checkpoint', checkpoint),
        *('--eta', 1, '--out', out),
    )
    written = json.loads(out.read_text())
    mean = sum(shares) / len(shares)
    assert written['mean_share'] == pytest.approx(mean, abs=1e-6)
    assert f'mean share of cells {mean:.4f}' in capsys.readouterr().out
    [shape] = written['shapes']
    flops = model_flops(
        build_model(Config.fromfile(config)), tuple(map(int, shape.split('x')))
    )
    found = sum(written['flops']['mean of the test images'].values())
    assert found == pytest.approx(flops.mean(shares).total())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--exit-rate', 1.5), r'exit_rate must be in \[0, 1\], got 1.5'),
        (('--shape', 16), r'at least 32 pixels high and wide, got \(16, 16\)'),
        (('--shape', 64, 64, 3), r'--shape takes H W or one side'),
    ],
)
def test_bad_input_is_named(run_tool, tiny_config, arguments, message) -> None:
    with pytest.raises(SystemExit, match=message):
        run_tool('get_flops.py', tiny_config(), *arguments)


def test_exit_rates_need_exits(run_tool, tiny_config) -> None:
    config = tiny_config('', 'vim_t_ade20k')
    with pytest.raises(SystemExit, match='needs a model with early exits'):
        run_tool('get_flops.py', config, '--exit-rate', 0.5)

"""tools/get_flops.py."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmscope.benchmark.build import build_model


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

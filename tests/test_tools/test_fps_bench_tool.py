"""tools/fps_bench.py, from the command line to its files."""

import argparse
import json
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmscope.benchmark.build import build_model
from mmscope.datasets import write_sample_data

ROOT = Path(__file__).parents[2]
# sizes that the config's Resize leaves alone, and all test images
SQUARE = """
val_dataloader['dataset']['indices'] = 8
test_dataloader = val_dataloader
"""


@pytest.fixture(scope='module')
def square_data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('square') / 'data'
    write_sample_data(root, num_train=1, num_val=8, size=(96, 96))
    return root


def run_bench(run_tool, *arguments: object) -> None:
    run_tool(
        'fps_bench.py',
        *('--device', 'cpu', '--repeats', 1, '--no-memory'),
        *('--resolutions', 96, *arguments),
    )


@pytest.mark.parametrize('policy', [None, 'mmscope.PixelConfidence'])
def test_exit_rate_is_that_of_the_test_tool(
    run_tool, tiny_config, square_data, tmp_path, capsys, policy
) -> None:
    policy = policy and dict(type=policy)
    more = f"model['backbone']['exit_policy'] = {policy}\n"
    config = tiny_config(SQUARE + more, data=square_data)
    state = build_model(Config.fromfile(config)).state_dict()
    state['backbone.exit_head.fc.weight'] *= 100  # confidences differ
    checkpoint = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=state), checkpoint)

    out = tmp_path / 'test'
    test = (config, checkpoint, '--work-dir', tmp_path / 'work')
    run_tool('test.py', *test, '--eta', 0.5, '--out', out)
    exits = json.loads((out / 'exits.json').read_text())
    confidences = sorted(one['confidence'] for one in exits)
    eta = (confidences[2] + confidences[3]) / 2
    run_tool('test.py', *test, '--eta', eta, '--out', out)
    metrics = json.loads((out / 'metrics.json').read_text())
    assert metrics['exit/rate'] == 5 / 8

    report = tmp_path / 'fps.json'
    run_bench(
        run_tool,
        *('--configs', config, '--checkpoint', checkpoint, '--eta', eta),
        *('--images', square_data / 'images' / 'validation'),
        *('--batch-size', 4, '--num-batches', 2, '--out', report),
    )
    records = json.loads(report.read_text())['records']
    # without pixels to look at, the backbone runs at no other resolution
    assert len(records) == (5 if policy is None else 6)
    assert {
        one['exit_rate']
        for one in records
        if policy is None or one['case']['exit_resolution'] == 'coarse'
    } == {5 / 8}
    printed = capsys.readouterr().out
    assert '0.6250' in printed
    assert 'mean nothing' not in printed


def test_what_was_chosen_is_said_and_random_weights_are(
    run_tool, tiny_config, tmp_path, capsys
) -> None:
    config = tiny_config()
    run_bench(
        run_tool,
        *('--configs', config, tiny_config('', 'vim_t_ade20k')),
        *('--eta', 0.7, '--batch-size', 2, '--plot', tmp_path / 'fps.png'),
        *('--scopes', 'backbone', '--fpn', 'full'),
    )
    printed = capsys.readouterr().out
    assert 'chosen for cpu:' in printed
    assert '--force-exit 0.5 1.0' in printed
    assert 'exits at an eta mean nothing' in ' '.join(printed.split())
    assert (tmp_path / 'fps.png').is_file()


def test_the_paper_s_figure_is_one_preset(
    run_tool, tiny_config, tmp_path
) -> None:
    """Made small here; everything else is the preset's."""
    report = tmp_path / 'fps.json'
    config = tiny_config()
    run_bench(
        run_tool,
        *('--configs', config, '--preset', 'figure6', '--batch-size', 2),
        *('--force-exit', 1, '--out', report, '--plot', tmp_path / 'x.png'),
    )
    written = json.loads(report.read_text())
    settings = written['environment']['settings']
    assert settings['etas'] == [0.6, 0.7, 0.8]
    assert settings['scopes'] == ['fpn']
    assert settings['exit_resolutions'] == ['fine']
    assert len(written['records']) == 4
    assert (tmp_path / 'x.png').is_file()


def test_the_score_stands_beside_the_speed(
    run_tool, tiny_config, square_data, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)  # for its log
    config = tiny_config(SQUARE, data=square_data)
    state = build_model(Config.fromfile(config)).state_dict()
    checkpoint = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=state), checkpoint)
    out = tmp_path / 'test'
    run_tool('test.py', config, checkpoint, '--eta', 0, '--out', out)
    expected = json.loads((out / 'metrics.json').read_text())['mIoU']
    half = ('--eta', 1, '--cfg-options', 'model.backbone.alpha=0.5')
    run_tool('test.py', config, checkpoint, *half, '--out', out)
    refined = json.loads((out / 'metrics.json').read_text())['mIoU']
    report = tmp_path / 'fps.json'
    run_bench(
        run_tool,
        *('--configs', config, '--checkpoint', checkpoint, '--evaluate'),
        *('--eta', 0, '--force-exit', 1, '--batch-size', 2),
        *('--force-share', 0.5),
        *('--scopes', 'backbone', '--exit-resolution', 'coarse'),
        *('--num-batches', 1, '--out', report),
    )
    eta, forced, share = json.loads(report.read_text())['records']
    assert eta['score'] == f'mIoU {expected:.2f}'
    assert forced['score'] is None
    assert share['score'] == f'mIoU {refined:.2f}'
    assert eta['score'] in capsys.readouterr().out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--eta', 1.5), r'--eta must be in \[0, 1\], got 1.5'),
        (
            ('--force-share', 1.5),
            r'--force-share must be in \(0, 1\].* got 1.5',
        ),
        (('--resolutions', 16), 'at least 32 pixels'),
        (('--resolutions', 'big'), "such as 512x768, got 'big'"),
        (('--images', '/no/where'), 'folder /no/where does not exist'),
        (('--models', 'vim_x'), "--models takes .*'vim_t'.* got 'vim_x'"),
        (('--configs', 'no.py'), 'config no.py does not exist'),
        (
            ('--device', 'tpu'),
            "device must be 'cpu', 'cuda' or 'cuda:N', got 'tpu'",
        ),
        (('--protocol', 'vim', '--dtype', 'bf16'), '--protocol vim is'),
        (('--evaluate',), '--evaluate needs --checkpoint'),
        (
            ('--models', 'vim_t', '--checkpoint', 'a', 'b'),
            '--checkpoint has 2 files for 1 models',
        ),
        (
            ('--models', 'vim_t', '--checkpoint', 'no.pth'),
            'no.pth',
        ),
    ],
)
def test_bad_input_ends_with_a_sentence(run_tool, arguments, message) -> None:
    with pytest.raises(SystemExit, match=f'fps_bench: .*{message}'):
        run_bench(run_tool, *arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_cuda_asked_for_and_absent(run_tool) -> None:
    with pytest.raises(SystemExit, match="'cuda' needs a GPU.* choose"):
        run_bench(run_tool, '--device', 'cuda')


@pytest.mark.parametrize('off', [False, True])
def test_kernels_are_launched_one_by_one_where_that_is_asked(off) -> None:
    tool = runpy.run_path(str(ROOT / 'tools/fps_bench.py'))
    args = argparse.Namespace(
        models=['mambascope_t', 'vim_t', 'deit_t', 'resnet50'],
        configs=None,
        checkpoint=[],
        no_cuda_graphs=off,
    )
    graphs = {}
    for name, cfg, _ in tool['read_configs'](args):
        net = build_model(cfg).backbone
        graphs[name] = getattr(net, 'block_graphs', None) is not None
    assert graphs.pop('resnet50') is False
    assert set(graphs.values()) == {not off}


def test_the_file_says_whether_graphs_were_off(
    run_tool, tiny_config, tmp_path
) -> None:
    config, out = tiny_config(), tmp_path / 'fps.json'
    for options, expected in ((), 'config'), (('--no-cuda-graphs',), 'off'):
        run_bench(
            run_tool,
            *('--configs', config, '--batch-size', 1, '--num-batches', 2),
            *('--scopes', 'backbone', '--out', out, *options),
        )
        settings = json.loads(out.read_text())['environment']['settings']
        assert settings['cuda_graphs'] == expected

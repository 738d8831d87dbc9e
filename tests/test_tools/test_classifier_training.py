"""Training a classifier as on ImageNet: averaged weights, resumption."""

import json
from pathlib import Path

import pytest
from classes import assert_same_weights, weights, write_classifier

FAST_AVERAGE = """
default_hooks['ema'] = dict(momentum=0.3)
"""


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('averaged')
    return write_classifier(folder, 'imagenet/mambascope_t_in1k', FAST_AVERAGE)


@pytest.fixture(scope='module')
def trained(train, config) -> Path:
    train(config, config.parent / 'work')
    return config.parent / 'work'


def test_averaged_weights_are_evaluated_and_saved(
    run_tool, trained, tmp_path
) -> None:
    checkpoint = trained / 'epoch_2.pth'
    averaged = weights(checkpoint)
    last = weights(checkpoint, 'ema_state_dict')
    name = 'backbone.patch_embed.proj.weight'
    assert (averaged[name] - last[f'module.{name}']).abs().max() > 1e-4
    run_tool(
        *('test.py', trained / 'classifier.py', checkpoint),
        *('--out', tmp_path / 'out', '--work-dir', tmp_path / 'work'),
    )
    tested = json.loads((tmp_path / 'out/metrics.json').read_text())
    (log,) = trained.glob('*/vis_data/scalars.json')
    lines = map(json.loads, log.read_text().splitlines())
    validated = [line for line in lines if 'exit/confidence' in line][-1]
    for metric in ('exit/confidence', 'accuracy/top1'):
        assert tested[metric] == pytest.approx(validated[metric], abs=1e-6)


def test_resumed_training_ends_with_the_same_weights(
    train, config, trained, tmp_path
) -> None:
    (tmp_path / 'work').mkdir()
    train(config, tmp_path / 'work', resume=str(trained / 'epoch_1.pth'))
    assert_same_weights(tmp_path / 'work/epoch_2.pth', trained / 'epoch_2.pth')

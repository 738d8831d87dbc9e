"""Training a rival: a teacher's file, averages of weights, resumption."""

import json
from pathlib import Path

import pytest
import torch
from classes import assert_same_weights, weights, write_classifier
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from mmscope.benchmark.reduction import count_directions

RIVAL = """
arch = dict(embed_dims=16, num_layers=3, d_state=4)
vim = dict(
    type='mmscope.VisionMambaBackbone',
    arch=arch,
    img_size=32,
    patch_size=4,
    out_indices=(2,),
    out_type='cls_token',
)
head = dict(type='LinearClsHead', num_classes=3, in_channels=16)
model = dict(
    _delete_=True,
    type='mmscope.DistilledClassifier',
    backbone=dict(
        vim,
        token_reduction=dict(
            type='mmscope.DynamicTokens', blocks=(1, 2), keep_ratio=0.6
        ),
    ),
    head=head,
    token_weight=0.5,
    teacher=dict(type='ImageClassifier', backbone=vim, head=head),
    teacher_checkpoint='{teacher}',
)
load_from = '{teacher}'
val_evaluator = test_evaluator = [dict(type='Accuracy', topk=(1,))]
default_hooks['ema'] = dict(momentum=0.3)
"""


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('rival')
    teacher = folder / 'teacher.pth'
    path = write_classifier(
        folder, 'imagenet/vim_t_dyvm_in1k', RIVAL.format(teacher=teacher)
    )
    torch.manual_seed(7)
    init_default_scope('mmpretrain')
    plain = MODELS.build(Config.fromfile(path).model.teacher)
    torch.save(dict(state_dict=plain.state_dict()), teacher)
    return path


@pytest.fixture(scope='module')
def trained(train, config) -> Path:
    work = config.parent / 'work'
    runner = train(config, work)
    expected = torch.load(config.parent / 'teacher.pth', weights_only=True)
    for key, value in runner.model.teacher.state_dict().items():
        assert torch.equal(value, expected['state_dict'][key]), key
    return work


def test_checkpoints_hold_the_student_alone(trained) -> None:
    for key in ('state_dict', 'ema_state_dict'):
        names = weights(trained / 'epoch_2.pth', key)
        assert not [name for name in names if 'teacher' in name]
        assert [name for name in names if 'token_reduction' in name]


def test_training_begins_with_the_teachers_weights(trained, config) -> None:
    start = weights(config.parent / 'teacher.pth')
    name = 'backbone.layers.0.mixer.in_proj.weight'
    after = weights(trained / 'epoch_1.pth')[name]
    assert 0 < (after - start[name]).abs().max() < 0.2


def test_resumed_training_ends_with_the_same_weights(
    train, config, trained, tmp_path
) -> None:
    (tmp_path / 'work').mkdir()
    train(config, tmp_path / 'work', resume=str(trained / 'epoch_1.pth'))
    assert_same_weights(tmp_path / 'work/epoch_2.pth', trained / 'epoch_2.pth')


def test_a_checkpoint_is_tested_without_the_teachers_file(
    run_tool, trained, tmp_path
) -> None:
    run_tool(
        *('test.py', trained / 'classifier.py', trained / 'epoch_2.pth'),
        *('--out', tmp_path / 'out', '--work-dir', tmp_path / 'work'),
        *('--cfg-options', 'model.teacher_checkpoint=gone.pth'),
    )
    assert (tmp_path / 'out/predictions.pkl').is_file()


def test_the_share_of_tokens_is_swept(run_tool, trained, tmp_path) -> None:
    run_tool(
        *('sweep_reduction.py', trained / 'classifier.py'),
        *(trained / 'epoch_2.pth', '--keep-ratio', 0.9, 0.6, 0.3),
        *('--out-dir', tmp_path),
    )
    records = json.loads((tmp_path / 'reduction.json').read_text())
    assert [record['keep_ratio'] for record in records] == [0.9, 0.6, 0.3]
    costs = [record['gflops'] for record in records]
    assert costs == sorted(costs, reverse=True) and costs[2] < 0.7 * costs[0]
    # gates start open, and two epochs of a few images leave them so
    assert [record['directions'] for record in records] == [1, 1, 1]


def test_directions_that_do_not_run_are_counted(config) -> None:
    init_default_scope('mmpretrain')
    model = MODELS.build(Config.fromfile(config).model).eval()
    with torch.no_grad():
        model.backbone.token_reduction.gates[1].bias[0] = -5
    with count_directions(model) as ran:
        model(torch.rand(2, 3, 32, 32))
    # one of two, in one of three blocks
    assert torch.cat(ran).float().mean().item() == pytest.approx(5 / 6)
    with count_directions(model.backbone.layers) as none:
        model(torch.rand(1, 3, 32, 32))
    assert none == []

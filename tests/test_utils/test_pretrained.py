"""Backbones that start from weights of Vim or of mmscope."""

import pytest
import torch
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS as ROOT_MODELS
from vim_weights import ARCH, vim_state

from mmscope.models import MambaScopeBackbone, VisionMambaBackbone
from mmscope.utils.checkpoint import CheckpointError, read_state_dict
from mmscope.utils.pretrained import load_pretrained
from mmscope.utils.vim_checkpoint import convert_vim_checkpoint

HEAD = dict(type='mmscope.MultiLabelExitHead', num_classes=5)


@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit])
def test_pretrained_config_takes_official_weights(vim_file, kind) -> None:
    source, state = vim_file
    net = ROOT_MODELS.build(
        dict(
            type='mmscope.MambaScopeBackbone',
            arch=ARCH,
            img_size=128,
            out_indices=(1, 2),
            exit_head=HEAD,
            init_cfg=dict(type=kind, checkpoint=str(source)),
        )
    )
    net.init_weights()
    ours = net.state_dict()
    taps = ours['layers.1.mixer.conv_weight'][1]
    assert torch.equal(taps, state['layers.1.mixer.conv1d_b.weight'][:, 0])
    for name in ('cls_pos_embed', 'coarse_cls_pos_embed'):
        assert torch.equal(ours[name], state['pos_embed'][:, 8:9])
    for level in (0, 1):
        weight = ours[f'level_norms.{level}.weight']
        assert torch.equal(weight, state['norm_f.weight'])
    # 4 x 4 resampled to 8 x 8; the coarse 4 x 4 grid is the stored one
    assert ours['pos_embed'].shape == (1, 64, 32)
    rows = [i for i in range(17) if i != 8]
    assert torch.equal(ours['coarse_pos_embed'], state['pos_embed'][:, rows])
    assert ours['pos_embed'].std() > 0.3


def test_backbone_of_a_whole_model_and_prefix(tmp_path) -> None:
    net = MambaScopeBackbone(ARCH, img_size=64, out_indices=(2,))
    for prefix in ('backbone', 'teacher'):
        path = tmp_path / f'{prefix}.pth'
        state = {f'{prefix}.{k}': v for k, v in net.state_dict().items()}
        state['decode_head.weight'] = torch.zeros(1)
        torch.save(dict(state_dict=state), path)
    other = MambaScopeBackbone(ARCH, img_size=64, out_indices=(2,))
    report = load_pretrained(other, tmp_path / 'backbone.pth')
    assert len(report.used) == len(net.state_dict())
    assert torch.equal(other.pos_embed, net.pos_embed)
    load_pretrained(other, tmp_path / 'teacher.pth', prefix='teacher.')
    with pytest.raises(CheckpointError, match='no key that starts with x.'):
        load_pretrained(other, tmp_path / 'teacher.pth', prefix='x')


@pytest.mark.parametrize(
    ('arch', 'message'),
    [
        (dict(embed_dims=64, num_layers=3), 'another architecture'),
        (dict(embed_dims=32, num_layers=4), 'missing layers.3'),
        (dict(embed_dims=32, num_layers=2), 'unexpected layers.2'),
    ],
)
def test_checkpoint_of_another_arch(vim_file, arch, message) -> None:
    net = VisionMambaBackbone(arch, img_size=64, out_indices=(1,))
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(net, vim_file[0])


def scope(classes: int, **options) -> MambaScopeBackbone:
    head = dict(type='mmscope.MultiLabelExitHead', num_classes=classes)
    options = dict(dict(img_size=64, exit_head=head), **options)
    return MambaScopeBackbone(ARCH, **options)


def classifier(**options) -> MambaScopeBackbone:
    head = dict(type='mmscope.SingleLabelExitHead', num_classes=7)
    options = dict(dict(exit_head=head, out_indices=(2,)), **options)
    return scope(7, out_type='cls_token', **options)


def save(net: torch.nn.Module, path) -> None:
    state = {f'backbone.{k}': v for k, v in net.state_dict().items()}
    torch.save(dict(state_dict=state), path)


@pytest.mark.parametrize('levels', [(0, 1, 2), (2,)], ids=str)
def test_a_classifier_starts_a_dense_model_and_back(tmp_path, levels) -> None:
    """As UperNet and Cascade take it: no key is lost, grids are named."""
    torch.manual_seed(0)
    source, path = classifier(), tmp_path / 'classifier.pth'
    torch.nn.init.uniform_(source.norm_f.weight)
    save(source, path)
    dense = scope(5, img_size=(64, 128), out_indices=levels)
    report = load_pretrained(dense, path)
    assert report.resized == [
        'pos_embed from 4 x 4 to 4 x 8',
        'coarse_pos_embed from 2 x 2 to 2 x 4',
    ]
    assert report.dropped == ['exit_head.fc.weight', 'exit_head.fc.bias']
    assert 'pos_embed from 4 x 4 to 4 x 8' in str(report)
    ours, theirs = dense.state_dict(), source.state_dict()
    for norm in dense.level_norms:
        assert torch.equal(norm.weight, source.norm_f.weight)
    new = {f'level_norms.{n}.weight' for n in range(len(levels))}
    assert ours.keys() - theirs.keys() == new
    for key in theirs:
        if not key.startswith('exit_head') and 'pos_embed' not in key:
            assert torch.equal(ours[key], theirs[key]), key

    save(dense, path)
    back = classifier()
    report = load_pretrained(back, path)
    assert not report.missing or set(report.missing) <= {
        'exit_head.fc.weight',
        'exit_head.fc.bias',
    }
    for key, value in source.state_dict().items():
        if not key.startswith('exit_head') and 'pos_embed' not in key:
            assert torch.equal(back.state_dict()[key], value), key


def test_the_same_classes_keep_their_exit_head(tmp_path) -> None:
    source, path = classifier(), tmp_path / 'classifier.pth'
    save(source, path)
    other = classifier()
    report = load_pretrained(other, path)
    assert not report.dropped and not report.resized
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours = other.eval().scope(x).coarse_logits
        theirs = source.eval().scope(x).coarse_logits
    assert torch.equal(ours, theirs)


def test_norms_of_other_levels_are_not_taken_for_these(tmp_path) -> None:
    """The first of one level is the last block's, of three the first's."""
    source, path = scope(5, out_indices=(2,)), tmp_path / 'detector.pth'
    torch.nn.init.constant_(source.level_norms[0].weight, 3.0)
    torch.nn.init.constant_(source.norm_f.weight, 2.0)
    save(source, path)
    dense = scope(5, out_indices=(0, 1, 2))
    report = load_pretrained(dense, path)
    assert report.dropped == ['level_norms.0.weight']
    for norm in dense.level_norms:
        assert (norm.weight == 2).all()


def test_a_plain_dense_model_starts_a_classifier(tmp_path) -> None:
    source, path = VisionMambaBackbone(ARCH, 64, out_indices=(1, 2)), 'v.pth'
    torch.nn.init.uniform_(source.level_norms[1].weight)
    save(source, tmp_path / path)
    net = VisionMambaBackbone(ARCH, 64, out_indices=(2,), out_type='cls_token')
    load_pretrained(net, tmp_path / path)
    assert torch.equal(net.norm_f.weight, source.level_norms[1].weight)


def test_averages_of_the_official_vim(tmp_path) -> None:
    model, averages = vim_state(), vim_state()
    path = tmp_path / 'vim_b.pth'
    torch.save(dict(model=model, model_ema=averages), path)
    kinds = (('model', model), ('raw', model), ('ema', averages))
    for weights, expected in kinds:
        init_cfg = dict(
            type='Pretrained', checkpoint=str(path), weights=weights
        )
        net = VisionMambaBackbone(
            ARCH, img_size=64, out_indices=(2,), init_cfg=init_cfg
        )
        net.init_weights()
        assert torch.equal(net.cls_token, expected['cls_token'])
        convert_vim_checkpoint(path, tmp_path / 'ours', weights=weights)
        converted = read_state_dict(tmp_path / 'ours')
        assert torch.equal(converted['cls_token'], expected['cls_token'])


@pytest.mark.parametrize('key', ['state_dict', 'ema_state_dict', 'model'])
def test_a_checkpoint_without_averages(tmp_path, key) -> None:
    path = tmp_path / 'epoch_1.pth'
    torch.save({key: vim_state(), 'meta': {}}, path)
    match = f"no averaged weights.*'{key}', 'meta'.*leave out weights"
    with pytest.raises(CheckpointError, match=match):
        read_state_dict(path, weights='ema')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(weights='mean'), "'model', 'ema', 'raw'.* got 'mean'"),
        (dict(weigths='ema'), 'prefix and weights, got .*weigths'),
        (dict(checkpoint=None), 'takes checkpoint'),
    ],
)
def test_pretrained_config_refuses_typos(vim_file, options, message) -> None:
    init_cfg = dict(type='Pretrained', checkpoint=vim_file[0]) | options
    net = VisionMambaBackbone(ARCH, 64, out_indices=(2,), init_cfg=init_cfg)
    with pytest.raises(ValueError, match=message):
        net.init_weights()


def test_an_exit_head_of_other_channels_is_refused(tmp_path) -> None:
    source, path = scope(5, out_indices=(2,)), tmp_path / 'scope.pth'
    source.exit_head.fc = torch.nn.Linear(64, 7)
    save(source, path)
    with pytest.raises(
        CheckpointError,
        match='(?s)another.*size mismatch for exit_head.fc.weight',
    ):
        load_pretrained(scope(5, out_indices=(2,)), path)

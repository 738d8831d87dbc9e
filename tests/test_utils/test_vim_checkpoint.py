"""Weights between the official Vim's names and ours."""

import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from vim_weights import ARCH, vim_state

from mmscope.models import MambaScopeBackbone, VisionMambaBackbone
from mmscope.utils.checkpoint import (
    CheckpointError,
    load_weights,
    read_state_dict,
)
from mmscope.utils.pretrained import load_pretrained
from mmscope.utils.vim_checkpoint import (
    convert_vim_checkpoint,
    from_vim,
    to_vim,
)


def test_tool_converts_every_key(vim_file, tmp_path, run_tool, capsys) -> None:
    source, state = vim_file
    target = tmp_path / 'ours.pth'
    run_tool('convert_vim_checkpoint.py', source, target)
    printed = capsys.readouterr().out
    assert 'layers.2.mixer.dt_proj_b.bias' in printed
    assert 'missing: 0' in printed
    assert 'head.weight (expected)' in printed

    ours = read_state_dict(target)
    assert torch.equal(ours['cls_pos_embed'], state['pos_embed'][:, 8:9])
    rows = [i for i in range(17) if i != 8]
    assert torch.equal(ours['pos_embed'], state['pos_embed'][:, rows])
    assert ours['pos_embed_grid'].tolist() == [4, 4]
    net = VisionMambaBackbone(
        ARCH, img_size=64, out_indices=(2,), out_type='cls_token'
    )
    # names, shapes and number fit to the letter
    net.load_state_dict(ours, strict=True)
    mixer, prefix = net.layers[2].mixer, 'layers.2.mixer.'
    for direction, (s, a) in enumerate((('', 'A'), ('_b', 'A_b'))):
        for name, vims in (
            ('conv_bias', f'conv1d{s}.bias'),
            ('x_proj', f'x_proj{s}.weight'),
            ('dt_proj', f'dt_proj{s}.weight'),
            ('dt_bias', f'dt_proj{s}.bias'),
            ('A_log', f'{a}_log'),
            ('D', f'D{s}'),
        ):
            own = getattr(mixer, name)[direction]
            assert torch.equal(own, state[prefix + vims]), vims
        taps = state[f'{prefix}conv1d{s}.weight']
        assert torch.equal(mixer.conv_weight[direction], taps[:, 0])
    for name in ('patch_embed.proj.bias', 'cls_token', 'norm_f.weight'):
        assert torch.equal(net.state_dict()[name], state[name]), name


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('side', [4, 5])
def test_round_trip_is_exact(tmp_path, run_tool, side, dtype) -> None:
    state = {k: v.to(dtype) for k, v in vim_state(side).items()}
    vim, ours, back = (tmp_path / f'{n}.pth' for n in ('vim', 'ours', 'back'))
    torch.save(dict(model=state), vim)
    run_tool('convert_vim_checkpoint.py', vim, ours)
    run_tool('convert_vim_checkpoint.py', '--to-vim', ours, back)
    written = torch.load(back)['model']
    for name in ('head.weight', 'head.bias'):
        del state[name]
    assert written.keys() == state.keys()
    for name, tensor in state.items():
        assert written[name].dtype == dtype
        assert torch.equal(written[name], tensor), name


def test_scope_of_a_model_gives_vims_weights(tmp_path) -> None:
    """What Vim does not have is left out, and said so."""
    net = MambaScopeBackbone(ARCH, img_size=64, out_indices=(2,))
    state = {f'backbone.{k}': v for k, v in net.state_dict().items()}
    state['decode_head.weight'] = torch.zeros(1)
    ours, vim = tmp_path / 'ours.pth', tmp_path / 'vim.pth'
    torch.save(dict(state_dict=state), ours)
    report = convert_vim_checkpoint(ours, vim, to_vim_names=True)
    assert 'reuse.layers.1.weight' in report.unexpected
    assert 'coarse_pos_embed_grid' in report.unexpected
    assert not report.problems
    shapes = {k: v.shape for k, v in vim_state().items() if 'head' not in k}
    written = read_state_dict(vim)
    assert {k: v.shape for k, v in written.items()} == shapes
    plain = VisionMambaBackbone(
        ARCH, img_size=64, out_indices=(2,), out_type='cls_token'
    )
    load_pretrained(plain, vim)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name]), name


def test_maps_have_no_final_norm(tmp_path) -> None:
    net = VisionMambaBackbone(ARCH, img_size=64, out_indices=(2,))
    written, report = to_vim(net.state_dict())
    assert report.missing == ['norm_f.weight']
    assert 'norm_f.weight' not in written


def test_grid_that_vim_cannot_have() -> None:
    net = VisionMambaBackbone(ARCH, img_size=(32, 128), out_indices=(2,))
    with pytest.raises(CheckpointError, match='2 x 8, and Vim has square'):
        to_vim(net.state_dict())


@pytest.mark.parametrize('to_vim_names', [False, True])
def test_weights_that_have_the_names_already(tmp_path, to_vim_names) -> None:
    state = vim_state()
    path = tmp_path / 'weights.pth'
    torch.save(state if to_vim_names else from_vim(state)[0], path)
    with pytest.raises(CheckpointError, match='names already'):
        convert_vim_checkpoint(path, tmp_path / 'out.pth', to_vim_names)


@pytest.mark.parametrize(
    'key',
    ['layers.1.mixer.A_b_log', 'cls_token', 'patch_embed.proj.bias'],
)
def test_missing_keys_are_named(tmp_path, key) -> None:
    state, path = vim_state(), tmp_path / 'vim.pth'
    del state[key]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=f'missing {key}'):
        convert_vim_checkpoint(path, tmp_path / 'ours.pth')
    assert not (tmp_path / 'ours.pth').exists()


def test_weights_without_a_class_token_are_refused(tmp_path) -> None:
    state = vim_state()
    state['pos_embed'] = state['pos_embed'][:, 1:]
    torch.save(state, tmp_path / 'vim.pth')
    with pytest.raises(CheckpointError, match='16 rows.*midclstok'):
        convert_vim_checkpoint(tmp_path / 'vim.pth', tmp_path / 'ours.pth')


@pytest.mark.parametrize(
    'key', ['layers.1.mixer.A_log', 'pos_embed_grid', 'cls_token']
)
def test_missing_keys_of_ours_are_named(key) -> None:
    state, _ = from_vim(vim_state())
    del state[key]
    with pytest.raises(CheckpointError, match=f'missing {key}'):
        to_vim(state)


def test_a_whole_classifier_with_its_head(tmp_path, run_tool) -> None:
    """Of configs/imagenet, for the rivals' teachers."""
    init_default_scope('mmpretrain')
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(
                type='mmscope.VisionMambaBackbone',
                arch=dict(embed_dims=32, num_layers=4, d_state=4),
                img_size=64,
                out_indices=(3,),
                out_type='cls_token',
            ),
            head=dict(type='LinearClsHead', num_classes=7, in_channels=32),
        )
    )
    state = model.state_dict()
    vims, _ = to_vim(model.backbone.state_dict())
    for name in ('weight', 'bias'):
        vims[f'head.{name}'] = state[f'head.fc.{name}']
    torch.save(dict(model=vims), tmp_path / 'vim.pth')
    run_tool(
        *('convert_vim_checkpoint.py', tmp_path / 'vim.pth'),
        *(tmp_path / 'ours.pth', '--classifier'),
    )
    ours = torch.load(tmp_path / 'ours.pth', weights_only=True)['state_dict']
    assert ours.keys() == state.keys()
    for key, value in ours.items():
        assert torch.equal(value, state[key]), key
    load_weights(model, tmp_path / 'ours.pth', 'the classifier')
    del vims['head.bias']
    torch.save(dict(model=vims), tmp_path / 'headless.pth')
    with pytest.raises(CheckpointError, match=r'no head\.bias, which a class'):
        convert_vim_checkpoint(
            tmp_path / 'headless.pth', tmp_path / 'x.pth', classifier=True
        )
    with pytest.raises(ValueError, match='leave out one'):
        convert_vim_checkpoint(
            tmp_path / 'ours.pth', tmp_path / 'x.pth', True, True
        )

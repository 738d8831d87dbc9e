import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS as ROOT_MODELS

from mmscope.models import MambaScopeBackbone, VisionMambaBackbone
from mmscope.utils.checkpoint import (
    CheckpointError,
    convert_vim_checkpoint,
    load_pretrained,
    read_state_dict,
)

ROOT = Path(__file__).parents[2]
ARCH = dict(embed_dims=32, num_layers=3)
HEAD = dict(type='mmscope.MultiLabelExitHead', num_classes=5)


def vim_state(side: int = 4) -> dict[str, torch.Tensor]:
    """Weights with the official names and shapes, all of them different."""
    dims, inner, rank, states = 32, 64, 2, 16
    shapes = {
        'cls_token': (1, 1, dims),
        'pos_embed': (1, side * side + 1, dims),
        'patch_embed.proj.weight': (dims, 3, 16, 16),
        'patch_embed.proj.bias': (dims,),
        'norm_f.weight': (dims,),
        'head.weight': (1000, dims),
        'head.bias': (1000,),
    }
    for n in range(3):
        shapes[f'layers.{n}.norm.weight'] = (dims,)
        mixer = {
            'in_proj.weight': (2 * inner, dims),
            'out_proj.weight': (dims, inner),
        }
        for s, a in (('', 'A'), ('_b', 'A_b')):
            mixer |= {
                f'{a}_log': (inner, states),
                f'D{s}': (inner,),
                f'conv1d{s}.weight': (inner, 1, 4),
                f'conv1d{s}.bias': (inner,),
                f'x_proj{s}.weight': (rank + 2 * states, inner),
                f'dt_proj{s}.weight': (inner, rank),
                f'dt_proj{s}.bias': (inner,),
            }
        shapes |= {f'layers.{n}.mixer.{k}': v for k, v in mixer.items()}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


@pytest.fixture(params=['wrapped', 'bare'])
def vim_file(request, tmp_path) -> tuple[Path, dict]:
    """An official checkpoint, as released and as a bare state dict."""
    state, path = vim_state(), tmp_path / 'vim.pth'
    wrapped = dict(model=state, epoch=3, args=argparse.Namespace(lr=1.0))
    torch.save(wrapped if request.param == 'wrapped' else state, path)
    return path, state


def test_tool_converts_every_key(vim_file, tmp_path) -> None:
    source, state = vim_file
    target = tmp_path / 'ours.pth'
    done = subprocess.run(
        [
            sys.executable,
            ROOT / 'tools/convert_vim_checkpoint.py',
            source,
            target,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'layers.2.mixer.dt_proj_b.bias' in done.stdout
    assert 'missing: 0' in done.stdout
    assert 'head.weight (expected)' in done.stdout

    ours = read_state_dict(target)
    assert torch.equal(ours['cls_pos_embed'], state['pos_embed'][:, 8:9])
    rows = [i for i in range(17) if i != 8]
    assert torch.equal(ours['pos_embed'], state['pos_embed'][:, rows])
    net = VisionMambaBackbone(
        ARCH, img_size=64, out_indices=(2,), out_type='cls_token'
    )
    # names, shapes and number fit to the letter
    net.load_state_dict(ours, strict=True)
    for name in state:
        if name.startswith(('layers', 'patch_embed', 'norm_f', 'cls_token')):
            assert torch.equal(net.state_dict()[name], state[name]), name


def test_pretrained_config_takes_official_weights(vim_file) -> None:
    source, state = vim_file
    net = ROOT_MODELS.build(
        dict(
            type='mmscope.MambaScopeBackbone',
            arch=ARCH,
            img_size=128,
            out_indices=(1, 2),
            exit_head=HEAD,
            init_cfg=dict(type='Pretrained', checkpoint=str(source)),
        )
    )
    net.init_weights()
    ours = net.state_dict()
    name = 'layers.1.mixer.conv1d_b.weight'
    assert torch.equal(ours[name], state[name])
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


def test_files_that_are_no_checkpoints(vim_file, tmp_path) -> None:
    whole = vim_file[0].read_bytes()
    bad = tmp_path / 'bad.pth'
    for content in (whole[:4000], whole[: len(whole) // 2], b'', b'hello'):
        bad.write_bytes(content)
        with pytest.raises(CheckpointError, match=r'bad.pth \(\d+ bytes\) is'):
            read_state_dict(bad)
    torch.save([1, 2], bad)
    with pytest.raises(CheckpointError, match='expected a state dict.*list'):
        read_state_dict(bad)
    with pytest.raises(FileNotFoundError, match=r'none.pth does not exist'):
        read_state_dict(tmp_path / 'none.pth')


class Bomb:
    """Unpickling it in full would raise."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ('code of the checkpoint was run',))


def test_reading_runs_no_code(tmp_path) -> None:
    path = tmp_path / 'bomb.pth'
    torch.save(dict(state_dict=dict(a=torch.ones(2)), extra=Bomb()), path)
    assert read_state_dict(path)['a'].tolist() == [1, 1]

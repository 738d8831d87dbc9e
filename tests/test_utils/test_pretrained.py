"""Backbones that start from weights of Vim or of mmscope."""

import pytest
import torch
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS as ROOT_MODELS
from vim_weights import ARCH

from mmscope.models import MambaScopeBackbone, VisionMambaBackbone
from mmscope.utils.checkpoint import CheckpointError
from mmscope.utils.pretrained import load_pretrained

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

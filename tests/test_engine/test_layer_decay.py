"""Layer-wise learning rates."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmscope.models import VisionMambaBackbone


class Model(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(4, 4)


def rates(model: nn.Module, **paramwise: object) -> dict[str, tuple]:
    """Learning rate and weight decay of each parameter."""
    cfg = dict(
        type='OptimWrapper',
        constructor='mmscope.LayerDecayConstructor',
        optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.1),
        paramwise_cfg=paramwise,
    )
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(parameter)]: (group['lr'], group['weight_decay'])
        for group in groups
        for parameter in group['params']
    }


def test_rates_fall_with_depth(make_net) -> None:
    model = Model(make_net(reuse='mlp'))
    found = rates(
        model,
        layer_decay_rate=0.5,
        norm_decay_mult=0.0,
        custom_keys={'layers.1.norm': dict(lr_mult=0.1, decay_mult=0.0)},
    )
    assert found.keys() == dict(model.named_parameters()).keys()
    expected = {
        'backbone.patch_embed.proj.weight': (0.5**5, 0.1),
        'backbone.cls_token': (0.5**5, 0.1),
        'backbone.pos_embed': (0.5**5, 0.1),
        'backbone.coarse_cls_pos_embed': (0.5**5, 0.1),
        'backbone.layers.0.mixer.A_log': (0.5**4, 0.1),
        'backbone.layers.2.mixer.dt_bias': (0.5**2, 0.1),
        'backbone.layers.1.norm.weight': (0.1 * 0.5**3, 0.0),
        'backbone.layers.3.mixer.in_proj.weight': (0.5, 0.1),
        'backbone.norm_f.weight': (1.0, 0.1),
        'backbone.level_norms.0.weight': (1.0, 0.1),
        'backbone.exit_head.fc.weight': (1.0, 0.1),
        'backbone.reuse.layers.0.weight': (1.0, 0.0),
        'head.weight': (1.0, 0.1),
    }
    for name, pair in expected.items():
        assert found[name] == pytest.approx(pair), name


def test_both_backbones_tell_depths_as_mmpretrain_does(make_net) -> None:
    vim = VisionMambaBackbone(
        dict(embed_dims=8, num_layers=3), out_indices=[2]
    )
    for net in (make_net(), vim):
        last = net.num_layers - 1
        name = f'model.layers.{last}.mixer.A_log'
        depths = net.num_layers + 2
        assert net.get_layer_depth(name, 'model.') == (last + 1, depths)
        assert net.get_layer_depth('pos_embed') == (0, depths)
        assert net.get_layer_depth('level_norms.0.weight')[0] == depths - 1


@pytest.mark.parametrize('rate', [None, 0, 1.1, float('nan')])
def test_bad_rate(make_net, rate) -> None:
    paramwise = {} if rate is None else dict(layer_decay_rate=rate)
    with pytest.raises(ValueError, match=rf'in \(0, 1\], got {rate}'):
        rates(Model(make_net()), bias_lr_mult=1.0, **paramwise)


def test_backbone_without_depths(make_net) -> None:
    with pytest.raises(TypeError, match='get_layer_depth, got Linear'):
        rates(Model(nn.Linear(2, 2)), layer_decay_rate=0.5)


def test_frozen_parameters_are_left_out(make_net) -> None:
    found = rates(Model(make_net(frozen_stages=1)), layer_decay_rate=0.5)
    assert not [name for name in found if 'backbone.layers.0.' in name]
    assert torch.tensor([lr for lr, _ in found.values()]).le(1).all()

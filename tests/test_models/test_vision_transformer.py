"""The DeiT that we compare with: mmseg's, with fused attention."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmseg.models import VisionTransformer
from torch.utils._python_dispatch import TorchDispatchMode

from mmscope.benchmark.build import build_model

CONFIGS = Path(__file__).parents[2] / 'configs'
SMALL = dict(
    img_size=(64, 64),
    embed_dims=48,
    num_layers=3,
    num_heads=3,
    out_indices=(0, 2),
    qkv_bias=True,
)


class Operators(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def both():
    from mmscope.models import FusedVisionTransformer

    plain = VisionTransformer(**copy.deepcopy(SMALL))
    fused = FusedVisionTransformer(**copy.deepcopy(SMALL))
    fused.load_state_dict(plain.state_dict())
    return plain, fused


@pytest.mark.parametrize('training', [False, True])
def test_outputs_and_gradients_are_those_of_mmseg(both, training) -> None:
    images, results = torch.rand(2, 3, 64, 96), []
    for net in both:
        net.train(training)
        maps = net(images)
        loss = sum(m.square().mean() for m in maps)
        loss.backward()
        results.append([*maps, net.pos_embed.grad])
    torch.testing.assert_close(*results, rtol=3e-6, atol=3e-6)


def test_no_matrix_of_tokens_times_tokens_is_written(both) -> None:
    names = []
    for net in both:
        net.eval()  # of mmseg's, this returns None
        with torch.no_grad(), Operators() as operators:
            net(torch.rand(1, 3, 64, 64))
        names.append(operators.names)
    assert '_softmax' in names[0]
    assert '_softmax' not in names[1]
    assert any('scaled_dot_product' in name for name in names[1])
    # strided tokens would make batched products of the projections
    assert 'bmm' not in names[1]


def test_deit_on_coco_writes_no_such_matrix_either() -> None:
    """mmpretrain's own attention calls torch's fused kernel."""
    cfg = Config.fromfile(CONFIGS / 'cascade_mask_rcnn' / 'deit_t_coco.py')
    cfg.model.backbone.img_size = 64
    net = build_model(cfg).backbone
    for training in (False, True):
        net.train(training)
        with torch.no_grad(), Operators() as operators:
            net(torch.rand(1, 3, 64, 64))
        assert '_softmax' not in operators.names
        assert 'bmm' not in operators.names
        assert any('scaled_dot_product' in name for name in operators.names)


@pytest.mark.parametrize('name', ['deit_t', 'deit_s'])
def test_the_configs_run_it(name) -> None:
    cfg = Config.fromfile(CONFIGS / 'upernet' / f'{name}_ade20k.py')
    net = build_model(cfg).backbone
    assert type(net).__name__ == 'FusedVisionTransformer'

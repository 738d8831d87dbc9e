"""What comments of configs tell to start from works as it is written."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner.checkpoint import get_external_models
from torch import Tensor, nn

from mmscope.models import VisionMambaBackbone
from mmscope.registry import MODELS
from mmscope.utils.vim_checkpoint import to_vim

CONFIGS = Path(__file__).parents[1] / 'configs'
OPTION = r'(model\.backbone\.init_cfg\.\w+)=(\S+)'


def options_of(path: Path) -> dict[str, str]:
    """Options for ``init_cfg`` that the comments of a config show."""
    lines = path.read_text().splitlines()
    return dict(re.findall(OPTION, ' '.join(s for s in lines if s[:1] == '#')))


TOLD = {
    str(path.relative_to(CONFIGS)): options
    for path in sorted(CONFIGS.rglob('*.py'))
    if (options := options_of(path))
}
NAMED = 'upernet/resnet50_ade20k.py'


@pytest.fixture(autouse=True)
def no_scope_remains() -> None:
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope='module')
def official() -> dict[str, Tensor]:
    """Weights of a Vim-Ti under the official names."""
    net = VisionMambaBackbone('tiny', out_indices=(23,), out_type='cls_token')
    nn.init.normal_(net.patch_embed.proj.bias)
    return to_vim(net.state_dict())[0]


def test_there_are_comments() -> None:
    assert len(TOLD) == 8


@pytest.mark.parametrize('name', [name for name in TOLD if name != NAMED])
def test_backbones_start_as_the_comment_says(
    name, official, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(CONFIGS / name)
    init_default_scope(cfg.default_scope)
    cfg.merge_from_dict(TOLD[name])
    init_cfg = cfg.model.backbone.init_cfg
    if init_cfg.checkpoint.startswith('vim'):
        key, state = 'patch_embed.proj.bias', official
    else:
        key, state = 'cls_token', MODELS.build(cfg.model.backbone).state_dict()
        nn.init.normal_(state[key])
    prefix = init_cfg.get('prefix', '')
    weights = {f'{prefix}{name}': value for name, value in state.items()}
    torch.save(dict(state_dict=weights), init_cfg.checkpoint)
    net = MODELS.build(cfg.model.backbone)
    net.init_weights()
    assert torch.equal(net.state_dict()[key], state[key])


def test_the_name_is_one_of_mmengines() -> None:
    name = TOLD[NAMED]['model.backbone.init_cfg.checkpoint']
    assert name.removeprefix('open-mmlab://') in get_external_models()

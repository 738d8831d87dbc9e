"""Configs of docs/plugging.md, built, trained and run as they are printed."""

import re
from pathlib import Path

import pytest
import torch
from detectors import make_sample as detection_sample
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.structures import BaseDataElement, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from torch import nn

from mmscope.engine.launch import load_config
from mmscope.registry import MODELS

PAGE = Path(__file__).parents[1] / 'docs/plugging.md'
BLOCK = re.compile(r'```python\n(_base_ = .*?)```', re.DOTALL)
BASE = re.compile(r"_base_ = '(.+)'")
BACKBONES = ('MambaScopeBackbone', 'VisionMambaBackbone')
# 70 x 90 is padded by the data preprocessor
SIZE = (70, 90)


def configs_of_page() -> dict[str, str]:
    """Every config, by its base; a base in a comment is one to choose."""
    found = {}
    for text in BLOCK.findall(PAGE.read_text()):
        first, *others = BASE.findall(text)
        for base in (first, *others):
            found[base] = text.replace(first, base, 1)
    return found


CONFIGS = configs_of_page()


@pytest.fixture(autouse=True)
def no_scope_remains() -> None:
    yield
    DefaultScope._instance_dict.clear()


def read(base: str, backbone: str, folder: Path) -> Config:
    """A config of the page for one of the backbones, as the page says."""
    text = CONFIGS[base]
    if backbone == 'VisionMambaBackbone':
        text = re.sub(r' *(exit_head=None|eta=1.0),\n', '', text)
        text = text.replace('MambaScopeBackbone', backbone)
    path = folder / 'config.py'
    path.write_text(text)
    return load_config(str(path))


def shrink(cfg: Config) -> None:
    """Four blocks of the width that the page has, on small canvases."""
    backbone = cfg.model.backbone
    assert backbone.arch == 'tiny'
    backbone.arch = dict(embed_dims=192, num_layers=4, d_state=4)
    four = len(backbone.out_indices) == 4
    backbone.out_indices = (0, 1, 2, 3) if four else (3,)
    if cfg.default_scope == 'mmseg':
        cfg.model.data_preprocessor.size = (96, 96)
    # as mmengine's runner does with mmpretrain's configs
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    tests = cfg.model.get('test_cfg') or dict()
    for node in (tests, tests.get('rcnn', dict())):
        if 'score_thr' in node:
            node.score_thr = 0.0
    if 'roi_head' in cfg.model:
        cfg.model.train_cfg.rcnn.sampler.num = 16
        cfg.model.train_cfg.rpn_proposal.max_per_img = 50
        cfg.model.test_cfg.rpn.max_per_img = 20


def make_sample(scope: str) -> BaseDataElement:
    """Ground truth of a picture, as the pipelines of a library pack it."""
    if scope == 'mmdet':
        return detection_sample(SIZE)
    shape = dict(img_shape=SIZE, ori_shape=SIZE)
    if scope == 'mmpretrain':
        return DataSample(metainfo=shape).set_gt_label(1)
    sample = SegDataSample(metainfo=shape)
    labels = torch.zeros(1, *SIZE, dtype=torch.long)
    labels[:, 20:50, 30:] = 3
    sample.gt_sem_seg = PixelData(data=labels)
    return sample


def check_answer(sample: BaseDataElement) -> None:
    """A prediction is of the picture that was asked about."""
    if isinstance(sample, DetDataSample):
        boxes = sample.pred_instances.bboxes
        assert boxes[:, 0::2].max() <= SIZE[1]
    elif isinstance(sample, SegDataSample):
        assert sample.pred_sem_seg.data.shape == (1, *SIZE)
    else:
        assert sample.pred_score.shape == (1000,)
        torch.testing.assert_close(sample.pred_score.sum(), torch.tensor(1.0))


@pytest.mark.parametrize('backbone', BACKBONES)
@pytest.mark.parametrize('base', sorted(CONFIGS))
def test_it_trains_and_predicts(
    base: str, backbone: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    cfg = read(base, backbone, tmp_path)
    shrink(cfg)
    init_default_scope(cfg.default_scope)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    assert type(model).__module__.startswith(f'{cfg.default_scope}.')
    model.init_weights()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    picture = torch.randint(0, 255, (3, *SIZE))
    data = dict(
        inputs=[picture] * 2,
        data_samples=[make_sample(cfg.default_scope) for _ in range(2)],
    )
    if cfg.default_scope == 'mmpretrain':
        data['inputs'] = torch.stack(data['inputs'])
    before = model.backbone.patch_embed.proj.weight.detach().clone()
    losses = model.train_step(data, optimizer)
    assert losses['loss'].isfinite()
    assert not torch.equal(model.backbone.patch_embed.proj.weight, before)
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name not in trained(model, optimizer)
    ]
    assert without == []
    model.eval()
    with torch.no_grad():
        answers = model.test_step(data)
    assert len(answers) == 2
    check_answer(answers[0])


def trained(model: nn.Module, optimizer: object) -> set[str]:
    """Names of parameters that the optimizer has moved."""
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter in optimizer.optimizer.state
    }


def test_there_are_configs() -> None:
    assert len(CONFIGS) == 8


@pytest.mark.parametrize(
    'base', sorted(base for base, text in CONFIGS.items() if 'A_log' in text)
)
def test_weight_decay_spares_what_the_page_says(
    base: str, tmp_path: Path
) -> None:
    cfg = read(base, BACKBONES[0], tmp_path)
    shrink(cfg)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    decays = {
        id(parameter): group['weight_decay']
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    mixer = model.backbone.layers[0].mixer
    assert decays[id(mixer.A_log)] == decays[id(mixer.D)] == 0
    assert decays[id(mixer.in_proj.weight)] > 0


@pytest.mark.parametrize('base', sorted(CONFIGS))
def test_no_schedule_ends_above_its_learning_rate(
    base: str, tmp_path: Path
) -> None:
    cfg = read(base, BACKBONES[0], tmp_path)
    rate = cfg.optim_wrapper.optimizer.lr
    assert all(one.get('eta_min', 0) < rate for one in cfg.param_scheduler)


def test_a_pretrained_of_the_base_is_refused(tmp_path: Path) -> None:
    """What the page says of leaving out ``pretrained=None``."""
    base = next(name for name in CONFIGS if 'upernet' in name)
    cfg = read(base, BACKBONES[0], tmp_path)
    shrink(cfg)
    cfg.model.pretrained = 'open-mmlab://resnet50_v1c'
    init_default_scope(cfg.default_scope)
    with pytest.raises(TypeError, match='pretrained'):
        MODELS.build(cfg.model)


def test_initialisers_of_the_whole_model_leave_the_encoder_alone(
    tmp_path: Path,
) -> None:
    base = next(name for name in CONFIGS if 'deit' in name)
    cfg = read(base, BACKBONES[0], tmp_path)
    shrink(cfg)
    init_default_scope(cfg.default_scope)
    cfg.model.init_cfg = dict(type='Constant', layer='Linear', val=7.0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    assert (model.backbone.layers[0].mixer.out_proj.weight < 7).all()

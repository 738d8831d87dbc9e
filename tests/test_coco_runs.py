"""The COCO configs train and predict on real files, an eighth as large."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import (
    DATASETS,
    VISUALIZERS,
    DefaultScope,
    init_default_scope,
)
from torch import nn

from mmscope.models import has_exits
from mmscope.registry import MODELS
from mmscope.utils.dataset_flops import dataset_flops
from mmscope.visualization.scope_pictures import picture_scope

FOLDER = Path(__file__).parents[1] / 'configs/cascade_mask_rcnn'
NAMES = sorted(path.stem for path in FOLDER.glob('*.py'))
SIDE = 128


@pytest.fixture(autouse=True)
def no_scope_remains() -> None:
    yield
    DefaultScope._instance_dict.clear()


def shrink(name: str, data: Path) -> Config:
    """A config with its own heads over two layers, on small images."""
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    backbone, preprocessor = cfg.model.backbone, cfg.model.data_preprocessor
    if 'arch' in backbone and isinstance(backbone.arch, dict):
        backbone.arch.num_layers = 2
        backbone.out_indices = (1,)
    backbone.img_size = SIDE
    preprocessor.batch_augments[0].size = (SIDE, SIDE)
    if preprocessor.pad_size_divisor == 1024:
        preprocessor.pad_size_divisor = SIDE
    for split in ('train', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.data_root = f'{data / "coco_mini"}/'
        for step in dataset.pipeline:
            for key in ('scale', 'crop_size'):
                if key in step:
                    step[key] = tuple(side // 8 for side in step[key])
    for stage in cfg.model.train_cfg.rcnn:
        stage.sampler.num = 16
    cfg.model.train_cfg.rpn_proposal.update(nms_pre=40, max_per_img=20)
    cfg.model.test_cfg.rpn.update(nms_pre=40, max_per_img=20)
    cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
    return cfg


def build(cfg: Config) -> nn.Module:
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


def batch_of(cfg: Config, split: str, count: int) -> dict:
    dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    return pseudo_collate([dataset[i] for i in range(count)])


@pytest.mark.parametrize('name', NAMES)
def test_it_trains_and_predicts(name: str, real_data: Path) -> None:
    cfg = shrink(name, real_data)
    model = build(cfg)
    batch = model.data_preprocessor(batch_of(cfg, 'train', 2), True)
    losses, logged = model.parse_losses(model(**batch, mode='loss'))
    losses.backward()
    assert all(value.isfinite() for value in logged.values())
    unused = [n for n, p in model.named_parameters() if p.grad is None]
    assert unused == []
    model.eval()
    with torch.no_grad():
        samples = model.test_step(batch_of(cfg, 'test', 2))
    for sample in samples:
        height, width = sample.ori_shape
        found = sample.pred_instances
        assert found.masks.shape[1:] == (height, width)
        assert (found.bboxes <= torch.tensor([width, height] * 2)).all()
        assert ('exited' in sample) == has_exits(cfg)
        if not name.endswith('_paper'):
            assert sample.pad_shape == (SIDE, SIDE)


@pytest.mark.parametrize('eta', [0.0, 1.0])
def test_costs_and_pictures_on_the_square_canvas(
    real_data: Path, eta: float, tmp_path: Path
) -> None:
    cfg = shrink('mambascope_t_coco', real_data)
    cfg.model.backbone.eta = eta
    model = build(cfg).eval()
    loader = [batch_of(cfg, 'test', 3)]
    flops = dataset_flops(model, loader)
    assert flops.shapes == {f'{SIDE} x {SIDE}': 3}
    assert flops.exit_rate == 1 - eta
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, save_dir=tmp_path))
    visualizer.dataset_meta = dataset.metainfo
    [picture] = picture_scope(model, [dataset[0]], visualizer)
    assert picture.scores.shape == picture.image.shape[:2]
    # cells of padding come last
    assert picture.selected.mean() > picture.shares[0]

"""The ADE20K configs train and predict on real files, an eighth as large."""

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

from mmscope.models import collect_passes, has_exits
from mmscope.registry import METRICS, MODELS
from mmscope.utils.dataset_flops import dataset_flops
from mmscope.utils.flops import model_flops
from mmscope.visualization.scope_pictures import picture_scope

FOLDER = Path(__file__).parents[1] / 'configs/upernet'
NAMES = sorted(path.stem for path in FOLDER.glob('*.py'))
SIDE = 64
STRIDE = 42


@pytest.fixture(autouse=True)
def no_scope_remains() -> None:
    yield
    DefaultScope._instance_dict.clear()


def shrink(name: str, data: Path) -> Config:
    """A config with its own heads over four layers, on small images."""
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    model, small = cfg.model, dict(out_indices=(0, 1, 2, 3))
    if 'arch' in model.backbone:
        model.backbone.arch.num_layers = 4
        model.backbone.update(small, img_size=SIDE)
    elif 'img_size' in model.backbone:
        model.backbone.update(small, img_size=(SIDE, SIDE), num_layers=4)
    if 'blocks' in (model.backbone.get('token_reduction') or {}):
        model.backbone.token_reduction.blocks = (1, 2)
    model.data_preprocessor.size = (SIDE, SIDE)
    if model.test_cfg.mode == 'slide':
        model.data_preprocessor.test_cfg.size = (SIDE, SIDE)
        model.test_cfg.update(crop_size=(SIDE, SIDE), stride=(STRIDE, STRIDE))
    for split in ('train', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.data_root = str(data / 'ade_mini')
        for step in dataset.pipeline:
            for key in ('scale', 'crop_size'):
                if key in step:
                    step[key] = tuple(side // 8 for side in step[key])
    return cfg


def build(cfg: Config) -> nn.Module:
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


def items_of(cfg: Config, split: str, count: int) -> list[dict]:
    dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    return [dataset[i] for i in range(count)]


@pytest.mark.parametrize('name', NAMES)
def test_it_trains_and_predicts(name: str, real_data: Path) -> None:
    cfg = shrink(name, real_data)
    model = build(cfg)
    batch = pseudo_collate(items_of(cfg, 'train', 2))
    losses, logged = model.parse_losses(
        model(**model.data_preprocessor(batch, True), mode='loss')
    )
    losses.backward()
    assert all(value.isfinite() for value in logged.values())
    unused = [n for n, p in model.named_parameters() if p.grad is None]
    assert unused == []
    model.eval()
    for item in items_of(cfg, 'test', 2):
        with torch.no_grad():
            (sample,) = model.test_step(pseudo_collate([item]))
        assert sample.pred_sem_seg.shape == sample.ori_shape
        assert ('exited' in sample) == has_exits(cfg)


@pytest.mark.parametrize('name', ['mambascope_t_ade20k_paper', 'vim_t_ade20k'])
def test_costs_are_those_of_the_windows(name: str, real_data: Path) -> None:
    cfg = shrink(name, real_data)
    model = build(cfg).eval()
    items = items_of(cfg, 'test', 3)
    found = dataset_flops(model, [pseudo_collate([item]) for item in items])
    window, counts = model_flops(model, (SIDE, SIDE)).refined, []
    for item in items:
        height, width = item['inputs'].shape[1:]
        assert min(height, width) == SIDE
        counts.append(1 + -(-(max(height, width) - SIDE) // STRIDE))
    assert max(counts) > 1
    assert found.windows == sum(counts)
    assert found.images == 3
    assert found.exit_rate == 0
    total = window.total() * sum(counts) / 3
    assert found.mean.total() == pytest.approx(total)


def test_windows_that_exit_are_counted_and_drawn(
    real_data: Path, tmp_path: Path
) -> None:
    """Some windows exit: costs, metric and pictures say how many."""
    cfg = shrink('mambascope_t_ade20k_paper', real_data)
    model = build(cfg).eval()
    model.backbone.exit_head.fc.weight.data *= 50
    items = items_of(cfg, 'test', 3)
    batches = [pseudo_collate([item]) for item in items]
    with torch.no_grad(), collect_passes(model) as passes:
        for batch in batches:
            model.test_step(batch)
    confidences = sorted(one.confidence.item() for one in passes)
    model.backbone.eta = confidences[len(confidences) // 2]
    left = sum(one >= model.backbone.eta for one in confidences)
    assert 0 < left < len(confidences)

    found = dataset_flops(model, batches)
    window = model_flops(model, (SIDE, SIDE))
    stay = len(confidences) - left
    total = left * window.exited.total() + stay * window.refined.total()
    assert found.mean.total() == pytest.approx(total / 3)

    metric = METRICS.build(dict(type='mmscope.ExitMetric'))
    with torch.no_grad():
        for batch in batches:
            metric.process({}, [s.to_dict() for s in model.test_step(batch)])
    rate = metric.evaluate(3)['exit/rate']
    assert found.exit_rate == pytest.approx(rate, abs=1e-6)

    visualizer = VISUALIZERS.build(dict(cfg.visualizer, save_dir=tmp_path))
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    visualizer.dataset_meta = dataset.metainfo
    pictures = picture_scope(model, items, visualizer)
    drawn = [one for picture in pictures for one in picture.confidences]
    assert sorted(drawn) == pytest.approx(confidences, abs=1e-5)
    ends = [one for p in pictures for one in p.exits(model.backbone.eta)]
    assert sum(ends) == left

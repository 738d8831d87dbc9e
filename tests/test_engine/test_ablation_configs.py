"""Every row of the paper's ablations reaches the model that it builds."""

from functools import cache
from math import ceil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor

from mmscope.engine.ablation import (
    data_options,
    epoch_options,
    find_table,
    read_tables,
)
from mmscope.models import MambaScopeBackbone
from mmscope.models.arch import ARCH_ZOO
from mmscope.registry import MODELS

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs' / 'ablation'
TABLES = read_tables(CONFIGS)
# what a built backbone has that the default's has not
CHANGES = {
    'table4_l2': dict(score_metric=('l2', 'max', 8)),
    'table4_no_clip': dict(score_metric=('no_clip', 'max', 8)),
    'table4_clip': dict(score_metric=('clip', 'max', 8)),
    'table4_softplus': dict(score_metric=('softplus', 'max', 8)),
    'table4_topk': dict(score_metric=('topk', 'max', 8)),
    'table4_max_softplus': {},
    'table5_alpha05': dict(alpha=0.5),
    'table5_alpha06': dict(alpha=0.6),
    'table5_alpha07': dict(alpha=0.7),
    'table5_alpha08': {},
    'table5_alpha09': dict(alpha=0.9),
    'table6_beta0': dict(beta=0.0),
    'table6_beta05': dict(beta=0.5),
    'table6_beta09': dict(beta=0.9),
    'table6_beta099': {},
    'table6_beta0999': dict(beta=0.999),
    'table7_last6': dict(score_layers=(18, 20, 22)),
    'table7_last12': {},
    'table7_last18': dict(score_layers=tuple(range(6, 24, 2))),
    'figure5_default': {},
    'figure5_reuse_cls': dict(reuse_cls=True),
    'figure5_reuse_linear': dict(reuse_depth=2),
    'figure5_cls_first': dict(cls_position='first'),
    'figure5_cls_last': dict(cls_position='last'),
    'figure5_important_last': dict(token_order='important_last'),
}
DEFAULT = dict(
    score_metric=('max_softplus', 'max', 8),
    alpha=0.8,
    beta=0.99,
    score_layers=tuple(range(12, 24, 2)),
    reuse_cls=False,
    reuse_depth=4,
    cls_position='middle',
    token_order='important_first',
)
# which part of an answer the rows of a table differ in
SHOWS = dict(
    table4='importance',
    table5='num_selected',
    table6='importance',
    table7='importance',
    figure5='logits',
)


def read(name: str) -> Config:
    return Config.fromfile(CONFIGS / f'{name}.py')


@cache
def backbone_of(name: str) -> MambaScopeBackbone:
    """The backbone of a row, narrow but as deep as the real one."""
    cfg = read(name)
    cfg.merge_from_dict(
        {'model.backbone.arch': dict(embed_dims=16, d_state=4)}
    )
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    return MODELS.build(cfg.model).backbone.eval()


@cache
def answer(name: str) -> dict[str, Tensor]:
    """What a row's model makes of an image, all with the same weights."""
    net = backbone_of(name)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.endswith('A_log'):
                weight.fill_(-5)  # remembers the whole sequence
            elif weight.ndim > 1:
                weight.normal_(std=0.1)
        result = net.scope(torch.randn(1, 3, 224, 224))
    return dict(
        importance=result.importance,
        num_selected=result.num_selected,
        logits=result.fine_logits,
    )


def test_each_config_is_a_row_and_each_row_has_one() -> None:
    rows = {
        f'{table.name}_{row.name}'
        for table in TABLES.values()
        for row in table.rows
    }
    files = {path.stem for path in CONFIGS.glob('*.py')}
    assert files == rows == set(CHANGES)


@pytest.mark.parametrize('name', CHANGES)
def test_the_option_of_a_row_is_on_its_backbone(name: str) -> None:
    net = backbone_of(name)
    built = {key: getattr(net, key, None) for key in DEFAULT}
    built['reuse_depth'] = len(net.reuse.layers)
    assert built == DEFAULT | CHANGES[name]
    assert net.eta == 1
    assert net.exit_head.num_classes == 100


@pytest.mark.parametrize('table', SHOWS)
def test_no_two_rows_of_a_table_do_the_same(table: str) -> None:
    names = [f'{table}_{row.name}' for row in TABLES[table].rows]
    shown = [answer(name)[SHOWS[table]] for name in names]
    for number, one in enumerate(shown):
        for other in shown[number + 1 :]:
            assert not torch.allclose(one.float(), other.float(), rtol=1e-4)


@pytest.mark.parametrize('row', TABLES['table5'].rows, ids=lambda r: r.name)
def test_alpha_is_the_share_of_cells(row) -> None:
    alpha = float(row.label.split()[1])
    (number,) = answer(f'table5_{row.name}')['num_selected'].tolist()
    assert number == ceil(alpha * 49)


def test_the_default_of_each_table_is_one_model() -> None:
    names = [name for name, change in CHANGES.items() if not change]
    configs = [read(name).to_dict() for name in names]
    assert len(configs) == 5
    assert all(config == configs[0] for config in configs)
    arch = configs[0]['model']['backbone']['arch']
    assert arch == ARCH_ZOO['small']


def test_the_recipe_is_that_of_the_paper() -> None:
    cfg = read('figure5_default')
    epochs = cfg.train_cfg.max_epochs
    assert epochs == 300
    full = cfg.default_hooks.alpha_schedule.full_until
    assert full * epochs == pytest.approx(200)
    assert cfg.train_dataloader.batch_size == 256
    # no augmentation of its own: Vim's, as on ImageNet
    imagenet = Config.fromfile(ROOT / 'configs/imagenet/mambascope_s_in1k.py')
    assert cfg.optim_wrapper == imagenet.optim_wrapper
    assert cfg.model.train_cfg == imagenet.model.train_cfg
    data, theirs = (c.train_dataloader for c in (cfg, imagenet))
    assert data.dataset.pipeline == theirs.dataset.pipeline
    assert data.sampler == theirs.sampler
    ema = imagenet.default_hooks.ema.momentum
    assert cfg.default_hooks.ema.momentum == ema


def test_a_scaled_schedule_keeps_its_shares() -> None:
    cfg = read('figure5_default')
    cfg.merge_from_dict(epoch_options(cfg, 60))
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.end, cosine.begin) == (1, 1)
    assert cosine.end == cfg.train_cfg.max_epochs == 60
    assert cfg.train_cfg.val_interval == 1
    assert cfg.default_hooks.checkpoint.interval == 1
    # five times fewer iterations, five times the step
    assert cfg.default_hooks.ema.momentum == pytest.approx(2e-4)
    same = read('figure5_default')
    same.merge_from_dict(epoch_options(same, 300))
    assert same.to_dict() == read('figure5_default').to_dict()
    with pytest.raises(ValueError, match='epochs must be at least 1, got 0'):
        epoch_options(cfg, 0)


def test_data_options_reach_every_split() -> None:
    cfg = read('figure5_default')
    cfg.merge_from_dict(data_options(cfg, 'imagenette', 'somewhere'))
    for split, folder in dict(train='train', val='val', test='val').items():
        dataset = cfg[f'{split}_dataloader'].dataset
        where = dataset.data_root, dataset.data_prefix, dataset.ann_file
        assert where == ('somewhere', folder, '')
        assert '224' not in str(dataset.pipeline)
        assert '256' not in str(dataset.pipeline)
    cfg = read('figure5_default')
    cfg.merge_from_dict(data_options(cfg, 'mini_imagenet', 'somewhere'))
    dataset = cfg.test_dataloader.dataset
    assert (dataset.data_root, dataset.ann_file) == (
        'somewhere',
        'meta/val.txt',
    )
    with pytest.raises(ValueError, match='cifar.*mini_imagenet, imagenette'):
        data_options(cfg, 'cifar')


def test_unknown_names_are_told_the_choices() -> None:
    with pytest.raises(ValueError, match="'table3'.*table4, table5.*figure5"):
        find_table(TABLES, 'table3')
    table = find_table(TABLES, 'table7')
    with pytest.raises(ValueError, match="'last24'; .*last6, last12, last18"):
        table.choose(['last6', 'last24'])
    assert [row.name for row in table.choose(None)] == [
        'last6',
        'last12',
        'last18',
    ]


def test_figures_are_those_of_the_paper() -> None:
    """A few of them, by hand from its tables."""
    by_name = {
        f'{table.name}_{row.name}': row
        for table in TABLES.values()
        for row in table.rows
    }
    assert by_name['table4_clip'].top1 == 87.9
    assert by_name['table5_alpha06'].gflops == 3.5
    assert by_name['table6_beta0999'].top1 == 87.6
    assert by_name['table7_last12'].top1 == 87.0
    assert by_name['figure5_important_last'].top1 == 86.9
    assert all(70 < row.top1 < 90 for row in by_name.values())

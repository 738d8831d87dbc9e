"""Every config loads, builds, and says what the paper or design says."""

import ast
import re
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope, init_default_scope
from torch import nn

from mmscope.models import has_exits
from mmscope.registry import MODELS

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    str(path.relative_to(ROOT / 'configs'))
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.parts
)
UPERNET = [name for name in CONFIGS if name.startswith('upernet/')]
# these have tests of their own
COCO = [name for name in CONFIGS if name.startswith('cascade_mask_rcnn/')]
WRAPPERS = {
    'ClassBalancedDataset',
    'ConcatDataset',
    'MultiImageMixDataset',
    'RepeatDataset',
}
# ours and, in Table 2, the paper's
PARAMETERS = {
    'mambascope_t_ade20k': (12_686_978, '13M'),
    'mambascope_t_ade20k_paper': (12_686_978, '13M'),
    'mambascope_s_ade20k': (46_789_442, '48M'),
    'mambascope_s_ade20k_paper': (46_789_442, '48M'),
    'vim_t_ade20k': (12_312_236, '13M'),
    'vim_s_ade20k': (45_450_284, '46M'),
    'vim_t_ade20k_vim': (12_311_084, '13M'),
    'vim_s_ade20k_vim': (45_447_980, '46M'),
    'vim_t_dyvm_ade20k': (12_531_314, '-'),
    'vim_s_dyvm_ade20k': (46_247_810, '-'),
    'vim_t_rmeeto_ade20k': (12_312_236, '-'),
    'vim_s_rmeeto_ade20k': (45_450_284, '-'),
    'vim_t_hiddenalign_ade20k': (12_312_236, '-'),
    'vim_s_hiddenalign_ade20k': (45_450_284, '-'),
    'deit_t_ade20k': (10_880_492, '11M'),
    'deit_s_ade20k': (41_702_060, '43M'),
    'resnet50_ade20k': (66_516_108, '67M'),
}


@pytest.fixture(autouse=True)
def no_scope_remains() -> None:
    yield
    DefaultScope._instance_dict.clear()


def read(name: str) -> Config:
    return Config.fromfile(ROOT / 'configs' / name)


def build(cfg: Config) -> nn.Module:
    """A config's model with initial weights."""
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


@pytest.fixture(scope='module', params=UPERNET)
def built(request: pytest.FixtureRequest) -> tuple[str, Config, nn.Module]:
    """Name, config and model; one model is kept at a time."""
    cfg = read(request.param)
    return request.param, cfg, build(cfg)


def parents(path: Path) -> list[Path]:
    """The files that a config names as its bases."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == '_base_':
            bases = ast.literal_eval(node.value)
            bases = [bases] if isinstance(bases, str) else bases
            return [(path.parent / base).resolve() for base in bases]
    return []


def depth(path: Path) -> int:
    """Configs in the longest line of descent.

    The parts in _base_, of which the first one is put together, do not
    count.
    """
    if '_base_' in path.parts:
        return 0
    return 1 + max(map(depth, parents(path)), default=0)


def test_there_are_configs() -> None:
    assert len(UPERNET) == len(PARAMETERS)


@pytest.mark.parametrize('name', sorted({*CONFIGS} - {*UPERNET, *COCO}))
def test_config_builds(name: str, tmp_path, monkeypatch) -> None:
    cfg = read(name)
    monkeypatch.chdir(tmp_path)
    if checkpoint := cfg.model.get('teacher_checkpoint'):
        init_default_scope(cfg.default_scope)
        weights = MODELS.build(cfg.model.teacher).state_dict()
        torch.save(dict(state_dict=weights), checkpoint)
    assert next(build(cfg).parameters()).isfinite().all()


@pytest.mark.parametrize('name', CONFIGS)
def test_options_reach_evaluators_and_datasets(name: str) -> None:
    cfg = read(name)
    for split in ('train', 'val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.type not in WRAPPERS
    for split in ('val', 'test'):
        evaluator = cfg[f'{split}_evaluator']
        assert isinstance(evaluator, list)
        tasks = 'IoUMetric', 'CocoMetric', 'Accuracy'
        assert evaluator[0].type in tasks
        exits = [metric.type for metric in evaluator[1:]]
        assert exits == ['mmscope.ExitMetric'] * has_exits(cfg)


@pytest.mark.parametrize('name', CONFIGS)
def test_at_most_three_deep(name: str) -> None:
    assert 1 <= depth(ROOT / 'configs' / name) <= 3


@pytest.mark.parametrize('name', CONFIGS)
def test_runs_can_be_repeated_and_are_guarded(name: str) -> None:
    cfg = read(name)
    assert cfg.randomness.seed is not None
    # default hooks merge: a config that adds its own keeps these
    assert 'custom_hooks' not in cfg
    hooks = {hook.type for hook in cfg.default_hooks.values()}
    assert {'mmscope.RandomStateHook', 'mmscope.FiniteLossHook'} <= hooks
    assert ('mmscope.ExitStatisticsHook' in hooks) == has_exits(cfg)


@pytest.mark.parametrize('name', CONFIGS)
def test_batch_norm_is_plain_and_synchronised_by_the_runner(name) -> None:
    """So that nothing has to rewrite types where there is no GPU."""
    cfg = read(name)
    assert cfg.sync_bn == 'torch'
    assert 'SyncBN' not in str(cfg.to_dict())


def test_parameters(built: tuple[str, Config, nn.Module]) -> None:
    name, _, model = built
    count, paper = PARAMETERS[Path(name).stem]
    ours = sum(p.numel() for p in model.parameters())
    print(f'{name}: ours {ours / 1e6:.2f}M, paper {paper}')
    assert ours == count
    assert all(p.isfinite().all() for p in model.parameters())


# the paper's: rate, decay, iterations, batch, clipping; and those of Vim's
# own code
RECIPE = (6e-5, 0.01, 160_000, 16, dict(max_norm=5.0))
VIMS = {
    'upernet/vim_t_ade20k_vim.py': (2e-4, 0.1, 60_000, 32, None),
    'upernet/vim_s_ade20k_vim.py': (1e-4, 0.05, 60_000, 32, None),
}


@pytest.mark.parametrize('name', UPERNET)
def test_recipe_is_the_same_for_all(name: str) -> None:
    cfg = read(name)
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.type == 'AdamW'
    assert cfg.train_cfg.type == 'IterBasedTrainLoop'
    assert (
        optimizer.lr,
        optimizer.weight_decay,
        cfg.train_cfg.max_iters,
        cfg.auto_scale_lr.base_batch_size,
        cfg.optim_wrapper.clip_grad,
    ) == VIMS.get(name, RECIPE)
    warm_up, decay = cfg.param_scheduler
    assert (warm_up.type, warm_up.begin, warm_up.end) == ('LinearLR', 0, 1500)
    assert (decay.type, decay.power, decay.eta_min) == ('PolyLR', 1, 0)
    assert (decay.begin, decay.end) == (1500, cfg.train_cfg.max_iters)
    assert not (warm_up.by_epoch or decay.by_epoch)
    if 'resnet' not in name:
        assert cfg.model.backbone.drop_path_rate == 0.1
    assert cfg.train_dataloader.batch_size == 4


@pytest.mark.parametrize('name', UPERNET)
def test_data_are_the_same_for_all(name: str) -> None:
    cfg = read(name)
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.data_root == 'data/ade/ADEChallengeData2016'
    steps = {s.type: s for s in cfg.train_dataloader.dataset.pipeline}
    assert steps['RandomResize'].ratio_range == (0.5, 2.0)
    assert steps['RandomCrop'].crop_size == (512, 512)
    assert {'RandomFlip', 'PhotoMetricDistortion'} <= set(steps)
    for split in ('train', 'val', 'test'):
        pipeline = cfg[f'{split}_dataloader'].dataset.pipeline
        (check,) = [s for s in pipeline if s.type == 'mmscope.CheckLabels']
        assert check.num_classes == cfg.model.decode_head.num_classes
    padding = cfg.model.data_preprocessor.test_cfg
    if re.search(r'mambascope_.*20k\.py', name):  # exits are of images
        assert cfg.model.test_cfg.mode == 'whole'
        assert padding == dict(size_divisor=32)
    else:
        assert cfg.model.test_cfg == dict(
            mode='slide', crop_size=(512, 512), stride=(341, 341)
        )
        assert padding == dict(size=(512, 512), size_divisor=None)


def test_weight_decay_spares_what_it_must(
    built: tuple[str, Config, nn.Module],
) -> None:
    name, cfg, model = built
    init_default_scope('mmseg')
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    names = {id(p): n for n, p in model.named_parameters()}
    decay = {
        names[id(parameter)]: group['weight_decay']
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    assert decay.keys() == set(names.values())
    spared = re.compile(
        r'pos_embed|cls_token|mixer\.(A_log|D|dt_bias|conv_bias)$'
    )
    full = cfg.optim_wrapper.optimizer.weight_decay
    assert decay == {
        n: 0.0 if p.ndim == 1 or spared.search(n) else full
        for n, p in model.named_parameters()
    }
    kinds = {re.sub(r'\d+', 'N', n) for n, d in decay.items() if d == 0}
    assert 'decode_head.fpn_convs.N.bn.weight' in kinds
    if 'mamba' in name or 'vim' in name:
        assert kinds >= {
            'backbone.layers.N.norm.weight',
            'backbone.layers.N.mixer.A_log',
            'backbone.layers.N.mixer.D',
            'backbone.layers.N.mixer.dt_bias',
            'backbone.layers.N.mixer.conv_bias',
            'backbone.pos_embed',
            'backbone.patch_embed.proj.bias',
        }
        assert decay['backbone.layers.0.mixer.in_proj.weight'] == full
    if 'mamba' in name:
        assert decay['backbone.cls_pos_embed'] == 0
        assert decay['backbone.level_norms.0.weight'] == 0
        assert decay['backbone.reuse.layers.0.weight'] == 0
        assert decay['backbone.reuse.layers.1.weight'] == full


@pytest.mark.parametrize(('size', 'rate'), [('t', 0.124), ('s', 0.277)])
def test_embeddings_learn_slowly_by_vims_recipe(size, rate) -> None:
    cfg = read(f'upernet/vim_{size}_ade20k_vim.py')
    model = build(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    names = {id(p): n for n, p in model.named_parameters()}
    base = cfg.optim_wrapper.optimizer.lr
    found = {
        names[id(group['params'][0])]: round(group['lr'] / base, 3)
        for group in wrapper.optimizer.param_groups
    }
    slow = {
        'backbone.pos_embed',
        'backbone.patch_embed.proj.weight',
        'backbone.patch_embed.proj.bias',
    }
    assert found == {n: rate if n in slow else 1 for n in found}


@pytest.mark.parametrize('size', ['t', 's'])
def test_paper_variant_is_the_method_alone(size: str) -> None:
    ours, paper = (
        read(f'upernet/mambascope_{size}_ade20k{suffix}.py')
        for suffix in ('', '_paper')
    )
    assert paper.model.backbone.alpha == 0.8
    assert paper.model.backbone.exit_resolution == 'fine'
    assert paper.model.coarse_decode_weight == 0
    assert ours.model.backbone.exit_resolution == 'coarse'
    assert ours.model.coarse_decode_weight > 0
    schedules = [cfg.default_hooks.alpha_schedule for cfg in (ours, paper)]
    assert [s.full_until for s in schedules] == [pytest.approx(2 / 3), 0]


METAFILES = sorted((ROOT / 'configs').rglob('metafile.yml'))


@pytest.mark.parametrize('path', METAFILES, ids=lambda p: p.parent.name)
def test_metafile_lists_every_config_of_its_folder(path: Path) -> None:
    meta = yaml.safe_load(path.read_text())
    listed = [model['Config'] for model in meta['Models']]
    folder = path.parent.relative_to(ROOT)
    assert sorted(listed) == [
        f'{folder}/{p.name}' for p in sorted(path.parent.glob('*.py'))
    ]
    collections = {c['Name'] for c in meta['Collections']}
    for model in meta['Models']:
        assert model['In Collection'] in collections
        # nothing of the paper's may pass for ours
        assert 'Results' not in model
        if 'Paper Results' in model or not NOT_IN_PAPER.search(
            model['Config']
        ):
            assert model['Paper Results']['Metrics']
    files = [c[key] for c in meta['Collections'] for key in c if key in _FILES]
    assert files
    assert all((ROOT / file).is_file() for file in files)


def test_no_two_collections_have_one_name() -> None:
    """Of two mim gives one to the models of both."""
    names = [
        collection['Name']
        for path in METAFILES
        for collection in yaml.safe_load(path.read_text())['Collections']
    ]
    assert len(set(names)) == len(names)


# MambaScope-S on COCO, rivals on ADE20K, and on ImageNet what is no Vim
NOT_IN_PAPER = re.compile(
    r'_s_coco|(rmeeto|hiddenalign)_ade20k|deit_s_in1k|resnet50_in1k'
)
_FILES = ('README', 'Code')


def test_readme_has_a_row_for_every_config() -> None:
    text = (ROOT / 'configs/upernet/README.md').read_text()
    for name in UPERNET:
        stem = Path(name).stem
        (row,) = re.findall(rf'^\| \[{stem}\.py\].*$', text, re.MULTILINE)
        ours, paper = PARAMETERS[stem]
        assert f'| {paper} | {ours / 1e6:.2f}M |' in row
        assert row.endswith('| not yet measured |')

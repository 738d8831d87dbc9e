"""Configs of configs/imagenet: sizes, recipe, and a step on real files."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, DefaultScope, init_default_scope
from torch import nn

from mmscope.benchmark.build import build_model, default_shape
from mmscope.models import MambaScopeBackbone, has_exits
from mmscope.models.token_reduction import collect_sequences

FOLDER = Path(__file__).parents[1] / 'configs/imagenet'
# ours and, in Table 1, the paper's
PARAMETERS = {
    'mambascope_t_in1k': (7_453_864, '8M'),
    'mambascope_s_in1k': (26_998_120, '28M'),
    'mambascope_b_in1k': (102_360_808, '102M'),
    'vim_t_in1k': (7_148_008, '7M'),
    'vim_s_in1k': (25_796_584, '26M'),
    'vim_b_in1k': (97_598_440, '98M'),
    'deit_s_in1k': (22_050_664, None),
    'resnet50_in1k': (25_557_032, None),
}
# another batch and recipe of the same model
VARIANTS = {
    'mambascope_t_in1k_bs1024': 'mambascope_t_in1k',
    'mambascope_s_in1k_bs512': 'mambascope_s_in1k',
    'vim_t_in1k_bs1024': 'vim_t_in1k',
    'vim_s_in1k_bs512': 'vim_s_in1k',
}

# ours; the paper's; learning rate, epochs, blocks' tokens at 224 x 224
RIVALS = {
    'vim_t_rmeeto_in1k': (7_148_008, '7M', 2e-5, 30, 142),
    'vim_s_rmeeto_in1k': (25_796_584, '26M', 2e-5, 15, 76),
    'vim_b_rmeeto_in1k': (97_598_440, '-', 2e-5, 15, 76),
    'vim_t_dyvm_in1k': (7_367_086, '7M', 3e-5, 30, 143),
    'vim_s_dyvm_in1k': (26_594_110, '27M', 2.5e-5, 30, 68),
    'vim_b_dyvm_in1k': (100_631_134, '101M', 1.25e-5, 30, 68),
    'vim_t_hiddenalign_in1k': (7_148_008, '7M', 5e-6, 30, 125),
    'vim_s_hiddenalign_in1k': (25_796_584, '27M', 5e-6, 30, 101),
}


@pytest.fixture(autouse=True)
def no_scope_remains() -> None:
    yield
    DefaultScope._instance_dict.clear()


def read(name: str) -> Config:
    return Config.fromfile(FOLDER / f'{name}.py')


@pytest.fixture(scope='module', params=PARAMETERS)
def built(request) -> tuple[str, Config, nn.Module]:
    """Name, config and model; one model is kept at a time."""
    cfg = read(request.param)
    return request.param, cfg, build_model(cfg)


@pytest.mark.parametrize(
    ('name', 'side'),
    [
        ('vim_t_in1k', 224),
        ('mambascope_t_in1k', 224),
        ('../evidence/imagenette_vim', 112),
        ('../evidence/imagenette_vimcoarse', 56),
    ],
)
def test_costs_are_told_for_the_size_that_is_trained_on(name, side) -> None:
    assert default_shape(read(name)) == (side, side)


def test_every_config_is_known_here() -> None:
    found = {path.stem for path in FOLDER.glob('*.py')}
    assert found == {*PARAMETERS, *VARIANTS, *RIVALS}


def test_parameters(built) -> None:
    name, _, model = built
    count = sum(p.numel() for p in model.parameters())
    ours, paper = PARAMETERS[name]
    print(f'{name}: {count / 1e6:.2f}M, the paper {paper}')
    assert count == ours


def test_decay_leaves_out_what_is_no_matrix(built) -> None:
    """Biases, norms, positions and the state space's own, stacked or not."""
    _, cfg, model = built
    init_default_scope(cfg.default_scope)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    decays = {
        id(p): group['weight_decay']
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }
    decayed = {
        name for name, p in model.named_parameters() if decays[id(p)] > 0
    }
    matrices = {
        name
        for name, p in model.named_parameters()
        if name.endswith(('weight', 'x_proj', 'dt_proj', 'conv_weight'))
        and p.dim() > 1
    }
    assert decayed == matrices
    assert len(decayed) > 40


def test_readme_has_a_row_for_every_config() -> None:
    text = (FOLDER / 'README.md').read_text()
    for name in (*PARAMETERS, *VARIANTS, *RIVALS):
        (row,) = re.findall(rf'^\| \[{name}\.py\].*$', text, re.MULTILINE)
        ours, paper, *_ = {**PARAMETERS, **RIVALS}[VARIANTS.get(name, name)]
        assert f'| {paper or "-"} | {ours / 1e6:.2f}M |' in row
        assert row.endswith('| not yet measured |')


@pytest.mark.parametrize('name', VARIANTS)
def test_variants_differ_in_their_recipe_alone(name) -> None:
    variant, base = read(name), read(VARIANTS[name])
    assert variant.model == base.model
    size = int(name.rsplit('bs', 1)[1])
    assert variant.auto_scale_lr.base_batch_size == size
    # on 8 GPUs
    assert 8 * variant.train_dataloader.batch_size == size


def test_recipe_is_the_papers(built) -> None:
    name, cfg, model = built
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ('AdamW', 1e-3)
    assert optimizer.weight_decay == 0.05
    assert cfg.auto_scale_lr.base_batch_size == 256
    assert cfg.train_cfg.max_epochs == 300
    assert has_exits(cfg) == name.startswith('mambascope')
    if isinstance(model.backbone, MambaScopeBackbone):
        # 200 epochs of 300
        assert cfg.default_hooks.alpha_schedule.full_until == 2 / 3
        assert model.backbone.alpha == 0.8


@pytest.mark.parametrize('name', RIVALS)
def test_rivals_train_on_from_vims_weights(name) -> None:
    cfg = read(name)
    model = build_model(cfg)
    ours, _, lr, epochs, length = RIVALS[name]
    learned = [
        p for n, p in model.named_parameters() if not n.startswith('teacher.')
    ]
    assert sum(p.numel() for p in learned) == ours
    size = name.split('_')[1]
    assert cfg.load_from == f'vim_{size}_in1k.pth'
    assert cfg.optim_wrapper.optimizer.lr == lr
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[-1].end == epochs
    # on 4 GPUs, or 8
    batch = cfg.auto_scale_lr.base_batch_size
    assert batch in (4 * cfg.train_dataloader.batch_size, 512)
    # the plain model's own weights are those that are loaded
    plain = build_model(read(f'vim_{size}_in1k'))
    found = plain.load_state_dict(model.state_dict(), strict=False)
    assert not found.missing_keys
    own = {key.split('.')[1] for key in found.unexpected_keys}
    assert own == ({'token_reduction'} if 'dyvm' in name else set())
    if 'hiddenalign' not in name:
        assert cfg.model.teacher_checkpoint == cfg.load_from
        model.teacher.load_state_dict(plain.state_dict())
    with torch.no_grad(), collect_sequences() as passes:
        model.backbone(torch.rand(1, 3, 224, 224))
    assert passes[0][-1].x.shape[1] == length


@pytest.fixture(scope='module')
def real_files(real_data, tmp_path_factory) -> tuple[Path, Path]:
    """A folder of classes, and a list of some of its files."""
    root = real_data / 'imagenette128' / 'train'
    if not root.is_dir():
        pytest.skip(f'{root} does not exist')
    lines = [
        f'{folder.name}/{sorted(folder.iterdir())[0].name} {label}'
        for label, folder in enumerate(sorted(root.iterdir())[:4])
    ]
    ann_file = tmp_path_factory.mktemp('imagenet') / 'train.txt'
    ann_file.write_text('\n'.join(lines))
    return root.parent, ann_file


def test_a_step_on_real_files(built, real_files) -> None:
    """The pipelines read them; losses and gradients are finite."""
    _, cfg, model = built
    root, ann_file = real_files
    init_default_scope(cfg.default_scope)
    for split in ('train', 'val'):
        dataset = cfg[f'{split}_dataloader'].dataset.copy()
        dataset.update(
            data_root=str(root), data_prefix='train', ann_file=str(ann_file)
        )
        dataset.pop('split')
        loaded = DATASETS.build(dataset)
        batch = pseudo_collate([loaded[0], loaded[3]])
        if split == 'val':
            with torch.no_grad():
                samples = model.eval().val_step(batch)
            assert [len(s.pred_score) for s in samples] == [1000, 1000]
            continue
        data = model.train().data_preprocessor(batch, training=True)
        assert data['inputs'].shape == (2, 3, 224, 224)
        losses = model(**data, mode='loss')
        total = sum(losses.values())
        total.backward()
        grads = [p.grad for p in model.parameters()]
        assert all(g is not None and g.isfinite().all() for g in grads)
        model.zero_grad()
        # smoothed labels of 1000 classes at the start
        assert 6 < total.item() < 9

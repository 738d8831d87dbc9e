"""Whole models that start from one another's checkpoints."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope, init_default_scope
from torch import Tensor, nn

from mmscope.models.embeddings import resize_pos_embed
from mmscope.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs'
ARCH = dict(embed_dims=192, num_layers=4, d_state=4)
# configs of classifiers of 10 classes, and of dense models of 150 and 80
SCOPE = 'evidence/imagenette_paper', 'upernet/mambascope_t_ade20k'
CLASSIFIERS = dict(scope=SCOPE[0], plain='evidence/imagenette_vim')
DENSE = dict(
    scope_upernet=SCOPE[1],
    scope_cascade='cascade_mask_rcnn/mambascope_t_coco',
    plain_upernet='upernet/vim_t_ade20k',
    plain_cascade='cascade_mask_rcnn/vim_t_coco',
)
PAIRS = [
    ('scope', 'scope_upernet'),
    ('scope', 'scope_cascade'),
    ('plain', 'scope_upernet'),
    ('plain', 'plain_upernet'),
    ('plain', 'plain_cascade'),
]
BACK = [pair for pair in PAIRS if pair != ('plain', 'scope_upernet')]
EXIT = dict(type='mmscope.SingleLabelExitHead')
EXIT_HEAD = {'exit_head.fc.weight', 'exit_head.fc.bias'}
POSITIONS = ('pos_embed', 'coarse_pos_embed')


@pytest.fixture(autouse=True)
def no_scope_remains() -> Iterator[None]:
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture
def log(caplog) -> Iterator[pytest.LogCaptureFixture]:
    """What mmengine's logger, which does not propagate, is told."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def build(name: str, **backbone: object) -> nn.Module:
    """The model of a config, with a smaller backbone."""
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    init_default_scope(cfg.default_scope)
    dense = name in DENSE.values()
    small = dict(
        arch=ARCH,
        patch_size=16,
        img_size=(64, 96) if dense else 64,
        out_indices=(0, 1, 2, 3) if 'upernet' in name else (3,),
    )
    cfg.model.backbone.update(small | backbone)
    if 'LinearClsHead' in str(cfg.model):
        cfg.model.head.in_channels = ARCH['embed_dims']
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.eval()


def saved(name: str, path: Path, **backbone: object) -> nn.Module:
    """Such a model, of which no two numbers are the same, and its file."""
    torch.manual_seed(0)
    model = build(name, **backbone)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    torch.save(dict(state_dict=model.state_dict(), meta=dict(epoch=1)), path)
    return model


def started(name: str, path: Path, **backbone: object) -> nn.Module:
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    return build(name, init_cfg=init_cfg, **backbone)


def grids_of(net: nn.Module) -> dict[str, tuple[int, int]]:
    return {
        name: tuple(grid)
        for name, grid in net.pos_grids.items()
        if name in POSITIONS
    }


def expected_positions(source: nn.Module, net: nn.Module) -> dict[str, Tensor]:
    """Position embeddings of one backbone that another should start with."""
    theirs, grids = source.state_dict(), grids_of(source)
    expected = {}
    for name, grid in grids_of(net).items():
        stored = name if name in grids else 'pos_embed'
        expected[name] = resize_pos_embed(theirs[stored], grids[stored], grid)
    return expected


def told_of_positions(source: nn.Module, net: nn.Module) -> list[str]:
    """How the log should name the grids."""
    grids = grids_of(source)
    return [
        '{} from {} x {} to {} x {}'.format(
            name, *grids.get(name, grids['pos_embed']), *grid
        )
        for name, grid in grids_of(net).items()
    ]


def assert_same(net: nn.Module, expected: dict[str, Tensor]) -> None:
    """Compare all but numbers of positions and classes."""
    own = net.state_dict()
    for key, value in expected.items():
        assert key in own, key
        if key not in EXIT_HEAD and not key.endswith('_grid'):
            assert torch.equal(own[key], value), key


@pytest.mark.parametrize(('classifier', 'dense'), PAIRS)
def test_a_classifier_starts_a_dense_model(
    tmp_path, log, classifier, dense
) -> None:
    path = tmp_path / 'epoch_1.pth'
    source = saved(CLASSIFIERS[classifier], path).backbone
    net = started(DENSE[dense], path).backbone
    expected = source.state_dict()
    norm = expected['norm_f.weight']
    if net.norm_f is None:
        del expected['norm_f.weight']
    levels = range(len(net.out_indices))
    expected |= {f'level_norms.{level}.weight': norm for level in levels}
    assert_same(net, expected | expected_positions(source, net))
    new = net.state_dict().keys() - expected.keys()
    if classifier == dense[:5]:
        assert not new
    for line in told_of_positions(source, net):
        assert f'  {line}\n' in log.text
    if classifier == 'scope':
        assert 'dropped: 2\n  exit_head.fc.weight (expected)' in log.text


@pytest.mark.parametrize(('classifier', 'dense'), BACK)
def test_a_dense_model_starts_a_classifier(
    tmp_path, log, classifier, dense
) -> None:
    path = tmp_path / 'iter_1.pth'
    source = saved(DENSE[dense], path).backbone
    net = started(CLASSIFIERS[classifier], path).backbone
    expected = {
        key: value
        for key, value in source.state_dict().items()
        if not key.startswith('level_norms')
    }
    if source.norm_f is None:
        expected['norm_f.weight'] = source.level_norms[-1].weight
    assert net.state_dict().keys() == expected.keys()
    assert_same(net, expected | expected_positions(source, net))
    for line in told_of_positions(source, net):
        assert f'  {line}\n' in log.text


@pytest.mark.parametrize('names', [SCOPE, SCOPE[::-1]], ids='-'.join)
def test_the_same_grids_and_classes_give_the_same_answers(
    tmp_path, names
) -> None:
    options = {SCOPE[1]: {}}
    options[SCOPE[0]] = dict(
        img_size=(64, 96), exit_head=dict(EXIT, num_classes=150)
    )
    path = tmp_path / 'weights.pth'
    source = saved(names[0], path, **options[names[0]]).backbone
    net = started(names[1], path, **options[names[1]]).backbone
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        theirs, ours = (b.scope(images, eta=1.0) for b in (source, net))
    assert theirs.coarse_logits.std() > 0.01
    assert torch.equal(ours.coarse_logits, theirs.coarse_logits)
    assert torch.equal(ours.fine_logits, theirs.fine_logits)

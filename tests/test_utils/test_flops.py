"""Counts against published figures, and against what really runs."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from mmengine.analysis import FlopAnalyzer, get_model_complexity_info
from mmengine.config import Config

from mmscope.benchmark.build import build_model
from mmscope.models import MambaScopeBackbone, VisionMambaBackbone
from mmscope.ops import scan_backends, use_backend
from mmscope.utils.flops import (
    CONVENTIONS,
    dataset_flops,
    encoder_flops,
    fine_flops,
    fine_tokens,
    model_flops,
    vim_flops,
)
from mmscope.utils.flops_trace import traced_flops
from mmscope.utils.operator_flops import scan_flops

CONFIGS = Path(__file__).parents[2] / 'configs'
HEAD = dict(type='mmscope.MultiLabelExitHead', num_classes=150)
needs_operators = pytest.mark.skipif(
    bool(scan_backends()['cpu']), reason='the C++ operators are not built'
)


@pytest.mark.parametrize(
    ('arch', 'published', 'two_direction'),
    [
        ('tiny', 1.449, 1.823),
        ('small', 5.077, 5.912),
        ('base', 18.868, 20.887),
    ],
)
def test_vim_costs_what_is_published(arch, published, two_direction) -> None:
    with torch.device('meta'):
        net = VisionMambaBackbone(arch, out_type='cls_token')
    classifier = 1000 * net.embed_dims
    for convention, expected in (
        ('published', published),
        ('two_direction', two_direction),
    ):
        total = vim_flops(net, (224, 224), convention).total() + classifier
        assert total / 1e9 == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize(
    ('alpha', 'expected'),
    [(0.5, 3.214), (0.6, 3.602), (0.7, 3.990), (0.8, 4.378), (0.9, 4.766)],
)
def test_the_fine_stage_costs_what_table_5_counts(alpha, expected) -> None:
    with torch.device('meta'):
        net = MambaScopeBackbone('small', alpha=alpha, exit_head=None)
    count = fine_flops(net, (224, 224), 'published')
    total = count.total() - count['reuse']
    assert total / 1e9 == pytest.approx(expected, rel=0.005)


@needs_operators
@pytest.mark.parametrize(
    ('size', 'options'),
    [
        ((224, 224), dict()),
        ((512, 768), dict(alpha=0.5)),
        ((96, 160), dict(reuse='linear', reuse_cls=True)),
        ((96, 160), dict(reuse='none', alpha=1.0)),
    ],
)
def test_the_formula_equals_what_ran(size, options) -> None:
    """One image of three refined; to the last operation."""
    arch = dict(embed_dims=64, num_layers=6)
    net = MambaScopeBackbone(
        arch, out_indices=(1, 5), exit_head=HEAD, eta=0.5, **options
    ).eval()
    net.exit_head.confidence = lambda logits: logits.new_tensor([1, 0, 1])
    images, results = torch.rand(3, 3, *size), []
    with torch.no_grad():
        ran = traced_flops(lambda: results.append(net.scope(images)))
    assert results[0].exited.tolist() == [True, False, True]
    flops = model_flops(net, size)
    assert flops.exited.total() * 2 + flops.refined.total() == ran.total()
    assert flops.exited['scan'] * 2 + flops.refined['scan'] == ran['scan']
    mean = flops.expected(2 / 3).total()
    assert 3 * mean == pytest.approx(ran.total(), rel=1e-9)


@needs_operators
def test_the_formula_equals_what_vim_ran(make_vim) -> None:
    for out_type in ('featmap', 'cls_token', 'raw'):
        net = make_vim(out_type=out_type)
        image = torch.rand(1, 3, 80, 112)
        with torch.no_grad():
            ran = traced_flops(lambda net=net, image=image: net(image))
        assert vim_flops(net, (80, 112)).total() == ran.total()


def test_the_fine_sequence_has_the_tokens_that_are_counted(make_net) -> None:
    net, lengths = make_net(alpha=0.5), []
    net.layers[0].register_forward_hook(
        lambda module, inputs, output: lengths.append(inputs[0].shape[1])
    )
    net(torch.rand(1, 3, 70, 100))
    assert lengths[1] == fine_tokens(net, (70, 100))


@pytest.mark.parametrize('backend', ['torch', 'cpu'])
def test_mmengine_counts_the_operators(make_vim, backend) -> None:
    if scan_backends()[backend]:
        pytest.skip('the C++ operators are not built')
    net, image = make_vim(), torch.rand(1, 3, 64, 96)
    with use_backend(backend):
        analyzer = FlopAnalyzer(net, (image,))
        assert analyzer.total() == vim_flops(net, (64, 96)).total()
        whole = get_model_complexity_info(
            net, inputs=image, show_table=False, show_arch=False
        )
    assert whole['flops'] == analyzer.total()
    scans = [n for op, n in analyzer.by_operator().items() if 'can' in op]
    mixer = net.layers[0].mixer
    one = scan_flops(25, mixer.D.shape[1], mixer.d_state)
    assert scans == [net.num_layers * one]


def test_published_halves_what_either_direction_has(make_vim) -> None:
    net = make_vim()
    both, one = (encoder_flops(net, 50, c) for c in CONVENTIONS)
    assert both['scan'] == 2 * one['scan']
    assert both['conv'] == 2 * one['conv']
    assert one['norm'] == 0


@needs_operators
@pytest.mark.parametrize('policy', [None, 'mmscope.PixelConfidence'])
@pytest.mark.parametrize('resolution', ['coarse', 'fine'])
def test_neck_and_head_are_counted_where_exits_run(
    tiny_config, resolution, policy
) -> None:
    cfg = Config.fromfile(tiny_config())
    cfg.model.backbone.exit_resolution = resolution
    cfg.model.backbone.exit_policy = policy and dict(type=policy)
    model = build_model(cfg)
    flops = model_flops(model, (64, 96))
    image = torch.rand(1, 3, 64, 96)
    for eta, counted in ((0.0, flops.exited), (1.0, flops.refined)):
        model.backbone.eta = eta
        with torch.no_grad():
            ran = traced_flops(lambda: model.predict(image))
        assert counted.total() == ran.total()
        assert counted['neck'] > 0
    if resolution == 'coarse':
        assert flops.exited['head'] < 0.5 * flops.refined['head']


def test_expected_lies_between_both_paths(make_net) -> None:
    flops = model_flops(make_net(), (64, 96))
    assert flops.expected(0) == flops.refined
    assert flops.expected(1).total() == flops.exited.total()
    with pytest.raises(ValueError, match=r'exit_rate must be in \[0, 1\]'):
        flops.expected(1.5)


def test_other_backbones_are_counted_by_what_they_run() -> None:
    cfg = Config.fromfile(CONFIGS / 'upernet' / 'deit_t_ade20k.py')
    count = model_flops(build_model(cfg), (224, 224)).refined
    layers, dims, tokens = 12, 192, 197
    linear = layers * 12 * dims**2 * tokens
    attention = layers * 2 * dims * tokens**2
    assert count['projections'] == linear + attention
    assert count['conv'] == 196 * 768 * dims


def test_mean_over_a_dataset(make_net) -> None:
    net = make_net(eta=0.5)

    class Model(torch.nn.Module):
        backbone = net

        def test_step(self, batch: list) -> list:
            return batch

    class Sample:
        def __init__(self, exited: bool, shape: tuple) -> None:
            self.exited, self.metainfo = exited, dict(img_shape=shape)

    batches = [
        [Sample(True, (64, 96)), Sample(False, (60, 70))],
        [Sample(True, (60, 150))],
    ]
    mean = dataset_flops(Model(), batches)
    small, wide = (model_flops(net, s) for s in ((64, 96), (64, 160)))
    expected = Counter(small.exited) + small.refined + wide.exited
    assert mean.mean.total() == pytest.approx(expected.total() / 3)
    assert mean.exit_rate == pytest.approx(2 / 3)
    assert mean.shapes == {'64 x 96': 2, '64 x 160': 1}
    with pytest.raises(ValueError, match='the dataset is empty'):
        dataset_flops(Model(), [])


def test_bad_input_is_named(make_net) -> None:
    with pytest.raises(ValueError, match='convention must be one of'):
        model_flops(make_net(), (64, 96), 'ops')
    with pytest.raises(ValueError, match='at least 32 pixels.*16, 64'):
        model_flops(make_net(), (16, 64))


def test_any_model_of_ours_tells_mmengine() -> None:
    """Nobody has to import a module for it."""
    code = (
        'from mmengine.analysis.complexity_analysis import '
        '_DEFAULT_SUPPORTED_FLOP_OPS as table; import mmscope.models; '
        "assert 'mmscope::torch_scan_forward' in table"
    )
    subprocess.run([sys.executable, '-c', code], check=True)

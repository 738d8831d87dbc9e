"""Counts against published figures, and against what really runs."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from mmengine.analysis import FlopAnalyzer, get_model_complexity_info
from mmengine.config import Config
from torch.utils.flop_counter import FlopCounterMode
from traced_flops import traced_flops

from mmscope.benchmark.build import build_model
from mmscope.models import MambaScopeBackbone, VisionMambaBackbone
from mmscope.ops import scan_backends, use_backend
from mmscope.utils.dataset_flops import dataset_flops
from mmscope.utils.flops import model_flops
from mmscope.utils.operator_flops import OPERATORS, scan_flops

CONFIGS = Path(__file__).parents[2] / 'configs'
HEAD = dict(type='mmscope.MultiLabelExitHead', num_classes=150)
needs_operators = pytest.mark.skipif(
    bool(scan_backends()['cpu']), reason='the C++ operators are not built'
)


@pytest.mark.parametrize(
    ('arch', 'published', 'two_direction'),
    [
        ('tiny', 1.448855040, 1.825584384),
        ('small', 5.076372480, 5.916977664),
        ('base', 18.867394560, 20.897190912),
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
        flops = model_flops(net, (224, 224), convention)
        assert flops.refined.total() + classifier == round(expected * 1e9)
        assert flops.exited == flops.refined


@pytest.mark.parametrize(
    ('alpha', 'expected'),
    [
        (0.5, 3.2136192),
        (0.6, 3.6016128),
        (0.7, 3.9896064),
        (0.8, 4.3776),
        (0.9, 4.7655936),
    ],
)
def test_the_fine_stage_costs_what_table_5_counts(alpha, expected) -> None:
    with torch.device('meta'):
        net = MambaScopeBackbone('small', alpha=alpha, exit_head=None)
    count = model_flops(net, (224, 224), 'published').fine
    assert count.total() - count['reuse'] == round(expected * 1e9)


@pytest.mark.parametrize(
    ('arch', 'parameters', 'expected'),
    [
        ('tiny', 7_454_056, {0.18: 1.4}),
        ('small', 26_998_504, {0.73: 2.5, 0.68: 2.7, 0.59: 3.1, 0.32: 4.3}),
        ('base', 102_361_576, {0.57: 11.8}),
    ],
)
def test_classifiers_cost_what_table_1_counts(
    arch, parameters, expected
) -> None:
    """As in table 5, without reuse: with it base would be 11.87."""
    head = dict(type='mmscope.SingleLabelExitHead', num_classes=1000)
    with torch.device('meta'):
        net = MambaScopeBackbone(arch, out_indices=(23,), exit_head=head)
    assert sum(weight.numel() for weight in net.parameters()) == parameters
    flops = model_flops(net, (224, 224), 'published')
    for exit_rate, giga in expected.items():
        mean = flops.expected(exit_rate)
        assert round((mean.total() - mean['reuse']) / 1e9, 1) == giga


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
    flops = model_flops(net, size)
    net.exit_head.confidence = lambda logits: logits.new_tensor([1, 0, 1])
    images, results = torch.rand(3, 3, *size), []
    with torch.no_grad():
        ran = traced_flops(lambda: results.append(net.scope(images)))
    assert results[0].exited.tolist() == [True, False, True]
    assert flops.exited.total() * 2 + flops.refined.total() == ran.total()
    assert flops.exited['scan'] * 2 + flops.refined['scan'] == ran['scan']
    assert flops.refined['reuse'] == flops.fine['reuse']
    mean = flops.expected(2 / 3).total()
    assert 3 * mean == pytest.approx(ran.total(), rel=1e-9)


@needs_operators
def test_the_formula_equals_what_vim_ran(make_vim) -> None:
    for out_type in ('featmap', 'cls_token', 'raw'):
        net = make_vim(out_type=out_type)
        image = torch.rand(1, 3, 80, 112)
        with torch.no_grad():
            ran = traced_flops(lambda net=net, image=image: net(image))
        flops = model_flops(net, (80, 112)).refined
        assert flops.total() == ran.total()


@pytest.mark.parametrize('backend', ['torch', 'cpu'])
def test_mmengine_counts_the_operators(make_vim, backend) -> None:
    if scan_backends()[backend]:
        pytest.skip('the C++ operators are not built')
    net, image = make_vim(), torch.rand(1, 3, 64, 96)
    with use_backend(backend):
        analyzer = FlopAnalyzer(net, (image,))
        expected = model_flops(net, (64, 96)).refined.total()
        assert analyzer.total() == expected
        whole = get_model_complexity_info(
            net, inputs=image, show_table=False, show_arch=False
        )
    assert whole['flops'] == analyzer.total()
    scans = [n for op, n in analyzer.by_operator().items() if 'can' in op]
    channels, states = net.layers[0].mixer.A_log.shape[-2:]
    one = scan_flops(25, channels, states)
    assert scans == [net.num_layers * one]


def test_published_halves_what_either_direction_has(make_vim) -> None:
    net = make_vim()
    both, one = (
        model_flops(net, (64, 96), convention).refined
        for convention in ('two_direction', 'published')
    )
    assert both['scan'] == 2 * one['scan']
    assert both['conv'] == 2 * one['conv']
    assert one['norm'] == 0
    dims, inner = net.embed_dims, 2 * net.embed_dims
    common = net.num_layers * 25 * 3 * dims * inner
    assert both['projections'] - common == 2 * (one['projections'] - common)


def test_a_smaller_selection_is_published_with_fewer_patches(make_net) -> None:
    net = make_net(alpha=0.8)
    flops = model_flops(net, (64, 96), 'published')
    patch = 3 * 16**2 * net.embed_dims
    assert flops.coarse['patch'] == 6 * patch
    assert flops.fine['patch'] == 4 * 5 * patch
    # more than three quarters: all are embedded
    assert model_flops(net, (64, 96)).fine['patch'] == 24 * patch
    net.alpha = 0.5
    assert model_flops(net, (64, 96)).fine['patch'] == 4 * 3 * patch


@needs_operators
@pytest.mark.parametrize('backend', ['torch', 'cpu'])
def test_torchs_counter_knows_the_operators(make_vim, backend) -> None:
    net, image = make_vim(), torch.rand(1, 3, 64, 96)
    counter = FlopCounterMode(display=False)
    with use_backend(backend), torch.no_grad(), counter:
        net(image)
    counts = counter.get_flop_counts()['Global']
    scans = [n for op, n in counts.items() if 'scan' in str(op)]
    channels, states = net.layers[0].mixer.A_log.shape[-2:]
    one = scan_flops(25, channels, states)
    assert scans == [2 * net.num_layers * one]  # a multiply-add is two there


def test_a_traced_call_counts_plain_torch_as_it_does_cpp(make_net) -> None:
    if scan_backends()['cpu']:
        pytest.skip('the C++ operators are not built')
    net, image, ran = make_net(), torch.rand(1, 3, 64, 96), []
    for backend in ('cpu', 'torch'):
        with use_backend(backend), torch.no_grad():
            ran.append(traced_flops(lambda: net.scope(image)))
    assert ran[0] == ran[1]


def test_every_operator_that_runs_a_forward_pass_is_known() -> None:
    """As they are found in torch's table of operators."""
    import mmscope.ops.conv.triton
    import mmscope.ops.norm.triton
    import mmscope.ops.scan.triton.operator  # noqa: F401

    known = {name.partition('::')[2] for name in OPERATORS}
    found = {
        name.partition('::')[2].partition('.')[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith('mmscope::')
    }
    counted = {
        name
        for name in found
        if 'backward' not in name and not name.startswith('scan_')
    } | ({'scan_forward'} & found)
    assert counted <= known, counted - known


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
    assert count['patch'] == 196 * 768 * dims


def test_heads_of_detectors_are_counted_at_stated_regions() -> None:
    cfg = Config.fromfile(
        CONFIGS / 'cascade_mask_rcnn' / 'mambascope_t_coco.py'
    )
    model = build_model(cfg)
    flops = model_flops(model, (256, 320), proposals=10, masks=3)
    more = model_flops(model, (256, 320), proposals=11, masks=5)
    boxes, masks = model.roi_head.bbox_head, model.roi_head.mask_head
    per_box = sum(
        49 * m.weight.numel() if isinstance(m, torch.nn.Conv2d)
        else m.weight.numel()
        for head in boxes
        for m in head.modules()
        if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
    )  # fmt: skip
    per_mask = 0
    for head in masks:
        for m in head.convs.modules():
            if isinstance(m, torch.nn.Conv2d):
                per_mask += 196 * m.weight.numel()
        per_mask += 196 * head.upsample.weight.numel()
        per_mask += 784 * head.conv_logits.weight.numel()
    extra = more.refined['head'] - flops.refined['head']
    norms = extra - per_box - 2 * per_mask
    assert 0 <= norms < 0.01 * extra  # LayerNorm2d, where heads have it
    # regions cost the same wherever the image exited
    regions = 10 * per_box + 3 * per_mask
    assert flops.exited['head'] > regions
    assert flops.exited['neck'] < 0.3 * flops.refined['neck']


def test_a_dense_detector_has_its_head_counted() -> None:
    from mmengine.registry import MODELS

    head = MODELS.build(
        dict(
            type='mmdet.RetinaHead',
            num_classes=3,
            in_channels=8,
            feat_channels=8,
            stacked_convs=1,
        )
    )
    backbone = VisionMambaBackbone(
        dict(embed_dims=8, num_layers=2, d_state=2), out_indices=(0, 1)
    )

    class Detector(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.neck, self.bbox_head = backbone, None, head

    convs = sum(
        m.weight.numel()
        for m in head.modules()
        if isinstance(m, torch.nn.Conv2d)
    )
    count = model_flops(Detector(), (64, 96)).refined
    assert count['head'] == 2 * 24 * convs


def test_without_a_fine_pass_everything_exits(make_net) -> None:
    flops = model_flops(make_net(alpha=0), (64, 96))
    assert not flops.fine
    assert flops.refined == flops.exited == flops.coarse


def test_a_model_without_exit_head_has_both_passes(make_net) -> None:
    with_head = model_flops(make_net(), (64, 96))
    without = model_flops(make_net(exit_head=None), (64, 96))
    assert without.fine['scan'] == with_head.fine['scan'] > 0
    assert without.coarse['head'] == 0


def test_counting_leaves_the_model_alone(make_net) -> None:
    net = make_net()
    before = dict(net.named_parameters())
    net.train()
    model_flops(net, (64, 96))
    assert net.training
    for name, parameter in net.named_parameters():
        assert parameter is before[name] and not parameter.is_meta


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
    assert mean.mean_share is None
    with pytest.raises(ValueError, match='the dataset is empty'):
        dataset_flops(Model(), [])


def test_mean_over_a_dataset_goes_by_the_share_of_each_image(
    make_net,
) -> None:
    """Of 6 cells a share of 0.2 is two, of 10 cells too."""
    net = make_net(alpha=(0.2, 0.5, 1.0), tau=0.5)

    class Model(torch.nn.Module):
        backbone = net

        def test_step(self, batch: list) -> list:
            return batch

    class Sample:
        def __init__(self, share: float, shape: tuple) -> None:
            self.exited, self.refined_share = share == 0, share
            self.metainfo = dict(img_shape=shape)

    small, wide = (64, 96), (64, 160)
    batches = [
        [Sample(0.333333, small), Sample(0.0, small)],
        [Sample(0.5, small), Sample(0.2, wide), Sample(1.0, wide)],
    ]
    found = dataset_flops(Model(), batches)
    expected = Counter()
    for size, shares in ((small, (0.2, 0.5)), (wide, (0.2, 1.0))):
        for share in shares:
            net.alpha = share
            expected += model_flops(net, size).refined
    expected += model_flops(net, small).exited
    assert found.mean.total() == pytest.approx(expected.total() / 5)
    assert found.mean['scan'] == pytest.approx(expected['scan'] / 5)
    assert found.exit_rate == 0.2
    assert found.mean_share == pytest.approx(2.033333 / 5)


def test_less_than_the_smallest_share_is_refused(make_net) -> None:
    flops = model_flops(make_net(alpha=(0.5, 1.0)), (64, 96))
    assert flops.mean([0.0, 0.5]).total() == pytest.approx(
        (flops.exited.total() + flops.by_share[0.5].total()) / 2
    )
    message = r'has 0.2 of its cells refined.* \[0.5, 1.0\]: count with the'
    with pytest.raises(ValueError, match=message):
        flops.mean([0.2])


def test_a_backend_that_was_asked_for_by_name_is_no_obstacle(
    make_net, make_vim
) -> None:
    for make in (make_net, make_vim):
        net = make(scan_backend='reference')
        flops = model_flops(net, (64, 96))
        assert net.layers[0].mixer.backend == 'reference'
        with use_backend('reference'):
            assert model_flops(make(), (64, 96)) == flops
        assert flops.refined['scan'] > 0


def test_bad_input_is_named(make_net) -> None:
    with pytest.raises(ValueError, match='convention must be one of'):
        model_flops(make_net(), (64, 96), 'ops')
    with pytest.raises(ValueError, match='at least 32 pixels.*16, 64'):
        model_flops(make_net(), (16, 64))


FIRST = """
from mmengine.analysis.complexity_analysis import (
    _DEFAULT_SUPPORTED_FLOP_OPS as table,
)
import torch
from mmscope.models import VisionMambaBackbone
from mmscope.ops import use_backend
from traced_flops import traced_flops
assert 'mmscope::torch_scan_forward' in table
arch = dict(embed_dims=16, num_layers=1, d_state=2)
net = VisionMambaBackbone(arch, out_indices=(0,))
def run():
    with use_backend('torch'):
        net(torch.rand(1, 3, 32, 32))
first, second = traced_flops(run), traced_flops(run)
assert first['scan'] > 0 and first == second, (first, second)
"""


def test_the_first_trace_of_a_process_has_the_scan() -> None:
    """Operators of a backend are defined when it is first called.

    And any model of ours tells mmengine: nobody has to import a module.
    """
    path = os.pathsep.join(sys.path)
    subprocess.run(
        [sys.executable, '-c', FIRST],
        env={**os.environ, 'PYTHONPATH': path},
        check=True,
    )

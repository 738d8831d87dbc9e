import pytest
import torch
from torch import Tensor

from mmscope.functional import multi_label_confidence
from mmscope.models import MambaScopeBackbone, VisionMambaBackbone
from mmscope.models.encoder import Encoded
from mmscope.models.refinement import Refinement
from mmscope.models.scope_result import Decision, ScopeResult
from mmscope.models.stages import CoarseStage
from mmscope.registry import MODELS


def count_passes(net: MambaScopeBackbone) -> list[int]:
    """Record the sequence length of every pass of the encoder."""
    lengths = []
    encode = net.encode

    def recording(x: Tensor, *args: object, **kwargs: object):
        lengths.append(x.shape[1])
        return encode(x, *args, **kwargs)

    net.encode = recording
    return lengths


def etas_between(net: MambaScopeBackbone, images: Tensor) -> float:
    """A threshold that parts the images in two halves."""
    confidence = net.scope(images, eta=1.0).confidence.sort().values
    middle = len(images) // 2
    assert confidence[middle] - confidence[middle - 1] > 1e-5
    return confidence[middle - 1 : middle + 1].mean().item()


def varied_images(count: int = 6, size: tuple = (64, 96)) -> Tensor:
    scales = torch.linspace(0.2, 4, count).view(-1, 1, 1, 1)
    return scales * torch.randn(count, 3, *size)


def sharpen(net: MambaScopeBackbone) -> None:
    """Spread the confidences of an untrained head."""
    net.exit_head.fc.weight.data *= 50


@pytest.mark.parametrize('size', [(64, 96), (96, 64), (70, 33), (129, 200)])
def test_maps_are_always_at_fine_resolution(make_net, size) -> None:
    net = make_net()
    grid = tuple(-(-side // 32) * 2 for side in size)
    for eta in (0, 1):
        maps = net.scope(torch.rand(2, 3, *size), eta=eta).features
        assert [tuple(m.shape) for m in maps] == [(2, 32, *grid)] * 2


def test_maps_are_contiguous(make_net) -> None:
    """mmcv's RoIAlign on a CPU misreads others."""
    net = make_net()
    images = varied_images()
    for eta in (0, etas_between(net, images), 1):
        result = net.scope(images, eta=eta)
        for maps in (result.features, result.coarse_features):
            assert all(m.is_contiguous() for m in maps)


@pytest.mark.parametrize('token_order', ['important_first', 'raster'])
def test_full_refinement_without_reuse_is_vim(token_order) -> None:
    arch = dict(embed_dims=32, num_layers=4)
    settings = dict(arch=arch, img_size=(64, 96), out_indices=(1, 3))
    vim = VisionMambaBackbone(**settings).eval()
    cls = VisionMambaBackbone(**settings, out_type='cls_token').eval()
    net = MambaScopeBackbone(
        **settings,
        alpha=1,
        eta=1,
        reuse='none',
        token_order=token_order,
        exit_head=dict(type='mmscope.MultiLabelExitHead', num_classes=32),
    ).eval()
    for parameter in net.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    torch.nn.init.eye_(net.exit_head.fc.weight)
    net.exit_head.fc.bias.data.zero_()
    vim.load_state_dict(net.state_dict(), strict=False)
    missing = cls.load_state_dict(net.state_dict(), strict=False).missing_keys
    assert missing == []

    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        result = net.scope(images)
        torch.testing.assert_close(
            result.features, vim(images), rtol=1e-5, atol=1e-5
        )
        # the identity as head shows the class token
        torch.testing.assert_close(
            result.fine_logits, cls(images)[-1], rtol=1e-5, atol=1e-5
        )


def test_coarse_stage_is_vim_on_the_half_size_image(make_net) -> None:
    net = make_net(separate_coarse_pos_embed=False)
    vim = VisionMambaBackbone(
        dict(embed_dims=32, num_layers=4, d_state=4),
        img_size=(64, 96),
        out_indices=(1, 3),
    ).eval()
    vim.load_state_dict(net.state_dict(), strict=False)
    images = torch.randn(2, 3, 64, 96)
    half = torch.nn.functional.interpolate(
        images, scale_factor=0.5, mode='bilinear', align_corners=False
    )
    torch.testing.assert_close(
        net.scope(images, eta=0).coarse_features, vim(half)
    )


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(reuse='linear'),
        dict(reuse='none'),
        dict(reuse_cls=True),
        dict(unselected='feature'),
        dict(cls_position='first'),
        dict(cls_position='last', token_order='important_last'),
        dict(token_order='raster'),
        dict(separate_coarse_pos_embed=False),
        dict(importance='topk'),
        dict(importance=dict(metric='l2', direction='sum')),
        dict(score_layers=(0, 3), beta=0.5),
        dict(alpha=1.0),
        dict(with_cp=True),
        dict(exit_head=None),
        dict(exit_head=None, reuse='none'),
        dict(exit_head=None, reuse='none', unselected='feature'),
        dict(exit_head=None, reuse='none', alpha=1.0),
        dict(exit_head=None, reuse='none', out_indices=(1, 2)),
    ],
)
def test_every_parameter_gets_a_gradient(make_net, options) -> None:
    net = make_net(**options).train()
    result = net.scope(torch.randn(2, 3, 64, 96))
    loss = sum(m.square().sum() for m in result.features)
    if net.exit_head is not None:
        loss = loss + result.coarse_logits.sum() + result.fine_logits.sum()
    loss.backward()
    without = [
        name
        for name, p in net.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert without == []
    frozen = [n for n, p in net.named_parameters() if not p.requires_grad]
    assert not frozen or net.exit_head is None


def test_mixed_exits_equal_each_path_alone(make_net) -> None:
    net = make_net()
    sharpen(net)
    images = varied_images()
    eta = etas_between(net, images)
    together = net.scope(images, eta=eta)
    assert 0 < together.exited.sum() < len(images)
    for index, exited in enumerate(together.exited.tolist()):
        alone = net.scope(images[index : index + 1], eta=0 if exited else 1)
        rows = slice(index, index + 1)
        for name in ('features', 'coarse_features'):
            for one, many in zip(
                getattr(alone, name), getattr(together, name), strict=True
            ):
                torch.testing.assert_close(many[rows], one)
        for name in ('coarse_logits', 'fine_logits', 'confidence'):
            torch.testing.assert_close(
                getattr(together, name)[rows],
                getattr(alone, name),
                equal_nan=True,
            )
        assert torch.equal(together.selected[rows], alone.selected)
        assert together.fine_logits[rows].isnan().all().item() is exited
        assert (together.selected[rows] == -1).all().item() is exited


def test_mixed_exits_keep_each_image_s_padding(make_net) -> None:
    """Of the two refined images, each selects among its own valid cells."""
    net = make_net()
    net.exit_head.confidence = lambda logits: logits.new_tensor([0, 1, 0])
    valid = torch.tensor(
        [[[1, 1, 0]] * 2, [[1, 1, 1]] * 2, [[0, 1, 1], [0, 1, 1]]]
    ).bool()
    result = net.scope(torch.rand(3, 3, 64, 96), valid, eta=0.5)
    assert result.exited.tolist() == [False, True, False]
    # three of six cells, in rows of three
    assert not (result.selected[0] % 3 == 2).any()
    assert not (result.selected[2] % 3 == 0).any()


def test_exits_follow_the_confidence_of_the_coarse_logits(make_net) -> None:
    net = make_net()
    sharpen(net)
    images = varied_images()
    eta = etas_between(net, images)
    result = net.scope(images, eta=eta)
    expected = multi_label_confidence(result.coarse_logits)
    torch.testing.assert_close(result.confidence, expected)
    assert torch.equal(result.exited, expected >= eta)


def test_batch_mates_change_nothing(make_net) -> None:
    """Features agree; decisions too, unless they are on the edge."""
    net = make_net(eta=0.55)
    sharpen(net)
    images = varied_images(8)
    together = net.scope(images)
    margin, edge = 1e-4, 0
    for index in range(len(images)):
        alone = net.scope(images[index : index + 1])
        ranked = alone.importance[0].sort(descending=True).values
        # half of the six cells are refined
        gap = (ranked[2] - ranked[3]) / ranked[2]
        if (alone.confidence - 0.55).abs() < margin or gap < margin:
            edge += 1
            continue
        assert alone.exited.item() == together.exited[index].item()
        for one, many in zip(alone.features, together.features, strict=True):
            torch.testing.assert_close(many[index : index + 1], one)
    print(f'{edge} of {len(images)} images within {margin} of a switch')
    assert edge < len(images) // 2


@pytest.mark.parametrize(
    ('alpha', 'eta', 'expected'),
    [
        (0.5, 0.0, [7]),
        (0.0, 0.7, [7]),
        (0.0, 1.0, [7]),
        (0.5, 1.0, [7, 16]),
        (1.0, 1.0, [7, 25]),
    ],
)
def test_which_passes_run(make_net, alpha, eta, expected) -> None:
    net = make_net(alpha=alpha, eta=eta)
    lengths = count_passes(net)
    result = net.scope(torch.rand(3, 3, 64, 96))
    assert lengths == expected
    assert result.exited.all().item() is (len(expected) == 1)


def test_no_fine_pass_for_an_empty_rest(make_net) -> None:
    net = make_net(eta=0.5)
    net.exit_head.fc.bias.data.fill_(9.0)
    lengths = count_passes(net)
    assert net.scope(torch.rand(3, 3, 64, 96)).exited.all()
    assert lengths == [7]


def test_training_takes_both_passes_whatever_eta(make_net) -> None:
    net = make_net(eta=0.0).train()
    lengths = count_passes(net)
    result = net.scope(torch.rand(2, 3, 64, 96), eta=0.0)
    assert lengths == [7, 16]
    assert not result.exited.any()


class PatchIds(torch.nn.Module):
    """Embeds a patch as its position, from 100 on in a coarse image."""

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        height, width = x.shape[2] // 16, x.shape[3] // 16
        first = 100.0 if height == 3 else 0.0
        ids = torch.arange(float(height * width)) + first
        ids = ids.expand(len(x), -1)
        if index is not None:
            ids = ids.gather(1, index)
        return ids.unsqueeze(2).expand(-1, -1, 32)


# a 3 x 5 coarse grid of which the cells 1, 7 and 13 are refined
FINE = [2, 3, 12, 13, 24, 25, 34, 35, 46, 47, 56, 57]
COARSE = [100 + i for i in range(15) if i not in (1, 7, 13)]


@pytest.mark.parametrize(
    ('cls_position', 'token_order', 'expected'),
    [
        ('first', 'important_first', [-1, *FINE, *COARSE]),
        ('middle', 'important_first', [*FINE[:6], -1, *FINE[6:], *COARSE]),
        ('last', 'important_first', [*FINE, -1, *COARSE]),
        ('first', 'important_last', [*COARSE, -1, *FINE]),
        ('middle', 'important_last', [*COARSE, *FINE[:6], -1, *FINE[6:]]),
        ('last', 'important_last', [*COARSE, *FINE, -1]),
    ],
)
def test_fine_pass_of_patches_that_carry_their_ids(
    make_net, cls_position, token_order, expected
) -> None:
    net = make_net(
        alpha=0.2,
        reuse='none',
        cls_position=cls_position,
        token_order=token_order,
    )
    net.patch_embed = PatchIds()
    net.level_norms = torch.nn.ModuleList([torch.nn.Identity()] * 2)
    for name in ('pos_embed', 'cls_pos_embed', 'coarse_pos_embed',
                 'coarse_cls_pos_embed'):  # fmt: skip
        getattr(net, name).data.zero_()
    net.cls_token.data.fill_(-1.0)
    sequences = []

    def stub(x: Tensor, *_: object) -> Encoded:
        sequences.append(x[0, :, 0].tolist())
        importance = torch.zeros(x.shape[:2])
        importance[:, [1, 8, 14]] = 1.0  # CLS stands at 7
        return Encoded((x, x), x, importance)

    net.encode = stub
    result = net.scope(torch.rand(1, 3, 96, 160), eta=1)
    assert sequences[0] == [*range(100, 107), -1, *range(107, 115)]
    assert sequences[1] == expected
    assert result.selected.tolist() == [[1, 7, 13]]
    for row in range(6):
        for column in range(10):
            cell, fine = row // 2 * 5 + column // 2, row * 10 + column
            value = fine if cell in (1, 7, 13) else 100 + cell
            assert result.features[1][0, 0, row, column] == value


def to_refine(coarse: CoarseStage) -> ScopeResult:
    """The record of a coarse pass over an image that is to be refined."""
    confidence = torch.zeros(1)
    return ScopeResult(
        images=torch.rand(1, 3, 96, 160),
        valid=None,
        coarse=coarse,
        decision=Decision(confidence, confidence.bool(), None, {}),
        refinement=Refinement(
            torch.tensor([0]), coarse.importance, ((3, None),), most=3
        ),
    )


@pytest.mark.parametrize('reuse_cls', [False, True])
def test_reused_features_reach_the_four_cells_of_their_token(
    make_net, reuse_cls
) -> None:
    """Coarse output tokens that carry ids, added to fine tokens of zero."""
    net = make_net(alpha=0.2, reuse_cls=reuse_cls)
    net.patch_embed.proj.weight.data.zero_()
    net.patch_embed.proj.bias.data.zero_()
    for parameter in net.parameters(recurse=False):
        parameter.data.zero_()
    net.reuse = torch.nn.Identity()
    ids = torch.arange(15.0).view(1, -1, 1).expand(1, -1, 32)
    importance = torch.zeros(1, 15)
    importance[:, [1, 7, 13]] = 1.0
    coarse = CoarseStage(
        tokens=torch.full((1, 15, 32), -1.0),
        features=ids,
        cls=torch.full((1, 32), 50.0),
        maps=(),
        importance=importance,
    )
    sequences = []

    def stub(x: Tensor) -> Encoded:
        sequences.append(x[0, :, 0].tolist())
        return Encoded((x, x), x, None)

    net.encode = stub
    net.fine(to_refine(coarse))
    # the fine cells in raster order: 2 3, 12 13, 24 25, 34 35, 46 47, 56 57
    parents = [1, 1, 1, 1, 7, 7, 7, 7, 13, 13, 13, 13]
    cls = 50.0 if reuse_cls else 0.0
    expected = [*parents[:6], cls, *parents[6:], *[-1] * 12]
    assert sequences == [expected]

    # neighbours in a row: their cells interleave
    importance = torch.zeros(1, 15)
    importance[:, [1, 2, 7]] = 1.0
    net.fine(to_refine(coarse._replace(importance=importance)))
    parents = [1, 1, 2, 2, 1, 1, 2, 2, 7, 7, 7, 7]
    expected = [*parents[:6], cls, *parents[6:], *[-1] * 12]
    assert sequences[1] == expected


def test_exited_image_repeats_its_coarse_map(make_net) -> None:
    result = make_net().scope(torch.rand(1, 3, 64, 96), eta=0)
    for fine, coarse in zip(
        result.features, result.coarse_features, strict=True
    ):
        expected = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
        assert torch.equal(fine, expected)


def test_padded_cells_are_selected_last(make_net) -> None:
    net = make_net(alpha=0.5)  # 3 of 2 x 3 cells
    valid = torch.zeros(2, 2, 3, dtype=torch.bool)
    valid[0, :, 1] = True
    valid[1, :, :2] = True
    result = net.scope(torch.rand(2, 3, 64, 96), valid=valid, eta=1)
    assert {1, 4} < set(result.selected[0].tolist())
    assert set(result.selected[1].tolist()) < {0, 1, 3, 4}


def test_importance_is_the_average_over_score_layers(make_net) -> None:
    net = make_net(beta=0.25, score_layers=(1, 3))
    scores = []
    for index in (1, 3):
        net.layers[index].register_forward_hook(
            lambda _module, _inputs, output: scores.append(output[-1])
        )
    result = net.scope(torch.rand(1, 3, 64, 96), eta=0)
    expected = 0.25 * (0.75 * scores[0]) + 0.75 * scores[1]
    middle = 3
    expected = torch.cat([expected[:, :middle], expected[:, middle + 1 :]], 1)
    torch.testing.assert_close(result.importance, expected)


def test_fused_and_unfused_scores_agree(make_net) -> None:
    fused, unfused = make_net(), make_net()
    unfused.load_state_dict(fused.state_dict())
    # softplus(topk of one channel) is what the scan returns
    unfused.score_metric = unfused.score_metric._replace(
        metric='topk', num_top=1
    )
    unfused.beta = fused.beta = 0.0
    images = torch.rand(2, 3, 64, 96)
    one, other = fused.scope(images, eta=0), unfused.scope(images, eta=0)
    torch.testing.assert_close(
        one.importance, torch.nn.functional.softplus(other.importance)
    )
    torch.testing.assert_close(one.features, other.features)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_other_precisions_run(make_net, dtype) -> None:
    net = make_net().to(dtype)
    result = net.scope(torch.rand(1, 3, 64, 96, dtype=dtype), eta=1)
    assert all(m.isfinite().all() for m in result.features)


def test_bf16_autocast_trains_without_nan(make_net) -> None:
    net = make_net(arch=dict(embed_dims=32, num_layers=24)).train()
    with torch.autocast('cpu', torch.bfloat16):
        result = net.scope(torch.rand(1, 3, 64, 96))
        loss = sum(m.float().square().mean() for m in result.features)
    loss.backward()
    assert loss.isfinite()
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ('arch', 'count', 'paper'),
    [
        ('tiny', 7_454_056, '8M'),
        ('small', 26_998_504, '28M'),
        ('base', 102_361_576, '102M'),
    ],
)
def test_parameters_with_a_1000_class_head(arch, count, paper) -> None:
    head = dict(type='mmscope.SingleLabelExitHead', num_classes=1000)
    with torch.device('meta'):
        net = MambaScopeBackbone(arch, out_indices=(23,), exit_head=head)
    ours = sum(p.numel() for p in net.parameters())
    print(f'MambaScope-{arch}: ours {ours / 1e6:.2f}M, paper {paper}')
    assert ours == count


def test_type_with_scope_needs_no_custom_imports() -> None:
    from mmengine.registry import MODELS as ROOT

    net = ROOT.build(dict(type='mmscope.MambaScopeBackbone', exit_head=None))
    assert isinstance(net, MODELS.get('MambaScopeBackbone'))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(eta=1.5), r'eta must be in \[0, 1\], got 1.5'),
        (dict(eta=float('nan')), r'eta must be in \[0, 1\], got nan'),
        (dict(alpha=-0.1), r'alpha must be in \[0, 1\], got -0.1'),
        (dict(beta=2), r'beta must be in \[0, 1\], got 2'),
        (dict(beta=1.0), 'beta must be below 1'),
        (dict(exit_head=None, eta=0.7), 'eta=0.7 needs an exit_head'),
        (dict(importance='mean'), "importance metric must .* got 'mean'"),
        (dict(importance=dict(beta=1)), "got .'beta'."),
        (dict(reuse='conv'), "reuse must be one of .* got 'conv'"),
        (dict(reuse='none', reuse_cls=True), 'reuse_cls=True needs'),
        (dict(unselected='zero'), "unselected must be one of .* got 'zero'"),
        (dict(cls_position='end'), "cls_position must .* got 'end'"),
        (dict(token_order='z'), "token_order must be one of .* got 'z'"),
        (dict(exit_resolution='low'), "exit_resolution must .* got 'low'"),
        (dict(score_layers=(4,)), r'score_layers .*\[0, 3\], got \(4,\)'),
        (dict(out_type='raw'), "out_type must be one of .* got 'raw'"),
    ],
)
def test_bad_arguments(make_net, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_net(**options)


def test_bad_calls(make_net) -> None:
    images = torch.rand(1, 3, 64, 96)
    with pytest.raises(ValueError, match='eta must be .* got 7'):
        make_net().scope(images, eta=7)
    with pytest.raises(ValueError, match='eta=0.5 needs an exit_head'):
        make_net(exit_head=None).scope(images, eta=0.5)
    with pytest.raises(ValueError, match='train with alpha above 0'):
        make_net(alpha=0.0).train().scope(images)
    with pytest.raises(ValueError, match=r'\(1, 2, 3\), got \(1, 4, 6\)'):
        make_net().scope(images, valid=torch.ones(1, 4, 6).bool())
    with pytest.raises(ValueError, match=r'at least 32 pixels .* \(64, 31\)'):
        make_net()(torch.rand(1, 3, 64, 31))


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('alpha', 1.5, r'alpha must be in \[0, 1\], got 1.5'),
        ('alpha', '0.5', r"alpha must be a number in \[0, 1\], got '0.5' of"),
        ('beta', 1, 'beta must be below 1'),
        ('eta', -0.1, r'eta must be in \[0, 1\], got -0.1'),
        ('eta', '0.5', r"eta must be a number in \[0, 1\], got '0.5' of type"),
        ('eta', None, r'eta must be a number in \[0, 1\], got None of type'),
        ('eta', torch.tensor([0.5, 0.6]), 'eta must be a number'),
    ],
)
def test_numbers_of_a_built_backbone(make_net, name, value, message) -> None:
    net = make_net()
    before = getattr(net, name)
    with pytest.raises(ValueError, match=message):
        setattr(net, name, value)
    assert getattr(net, name) == before
    with pytest.raises(ValueError, match=message):
        make_net(**{name: value})


def test_eta_may_be_a_tensor_of_one_element(make_net) -> None:
    net, images = make_net(), torch.rand(3, 3, 64, 96)
    confidence = net.scope(images).confidence.sort().values
    middle = confidence[:2].mean()
    exited = net.scope(images, eta=middle).exited
    assert exited.sum() == 2
    net.eta = middle[None]
    assert net.eta == middle.item()
    assert torch.equal(net.scope(images).exited, exited)


def test_eta_without_exit_head_is_refused_when_set(make_net) -> None:
    net = make_net(exit_head=None)
    with pytest.raises(ValueError, match='eta=0.5 needs an exit_head'):
        net.eta = 0.5
    net.eta = 1

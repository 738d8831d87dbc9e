"""Merging and pruning in the backbone: exact, rectangular, on any grid."""

import pytest
import torch
from torch import Tensor

from mmscope.functional import split_cls, take_tokens
from mmscope.functional.pruning import find_gaps
from mmscope.models import DynamicTokens, TokenMerging, VisionMambaBackbone
from mmscope.models.layers import BiMambaMixer, ScoreMetric
from mmscope.models.token_reduction import Reduced, collect_sequences
from mmscope.models.token_reduction.base import shown_cells
from mmscope.utils.flops import model_flops

ARCH = dict(embed_dims=32, num_layers=6, d_state=4)
MERGING = dict(type='mmscope.TokenMerging', num_merged=60, blocks=(2, 4))
PRUNING = dict(type='mmscope.HiddenAlignPruning', ratio=0.6, blocks=(1, 3))
HOLD = dict(PRUNING, alignment='hold')
WAYS = pytest.mark.parametrize(
    'reduction', [MERGING, PRUNING, HOLD], ids=['merge', 'decay', 'hold']
)
MASK = dict(PRUNING, alignment='mask')
ANY_WAY = pytest.mark.parametrize(
    'reduction',
    [MERGING, PRUNING, HOLD, MASK],
    ids=['merge', 'decay', 'hold', 'mask'],
)
# 5 x 3 cells, an odd number
SIZE = (80, 48)


def make(reduction: dict | None, **options) -> VisionMambaBackbone:
    torch.manual_seed(0)
    options = dict(dict(out_indices=(0, 3, 5)), **options)
    net = VisionMambaBackbone(
        ARCH, img_size=SIZE, token_reduction=reduction, **options
    )
    return net.eval()


def images(number: int = 3) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(number, 3, *SIZE)


def seen(net: VisionMambaBackbone, x: Tensor) -> list[Reduced]:
    """The sequence behind every block."""
    with torch.no_grad(), collect_sequences() as passes:
        net(x)
    (sequences,) = passes
    return sequences


@pytest.mark.parametrize('out_type', ['featmap', 'cls_token', 'raw'])
@pytest.mark.parametrize(
    'nothing', [dict(MERGING, num_merged=0), dict(PRUNING, ratio=1.0)]
)
def test_reducing_nothing_is_the_plain_model_to_the_bit(out_type, nothing):
    x = images()
    with torch.no_grad():
        plain = make(None, out_type=out_type)(x)
        reduced = make(nothing, out_type=out_type)(x)
    for one, other in zip(plain, reduced, strict=True):
        assert torch.equal(one, other)


@WAYS
def test_later_blocks_run_on_fewer_tokens(reduction):
    lengths = [one.x.shape[1] for one in seen(make(reduction), images())]
    assert lengths[0] == 16
    assert lengths == sorted(lengths, reverse=True)
    # round(60 * 15 / 196) = 5 are merged; 8 and 4 of 15 cells are kept
    expected = {2: 11, 4: 6} if reduction is MERGING else {1: 9, 3: 5}
    for block, length in expected.items():
        assert lengths[block] == length < lengths[block - 1]


@WAYS
def test_every_cell_has_its_token_or_what_it_had(reduction):
    records = seen(make(reduction), images())
    for before, after in zip(records, records[1:], strict=False):
        slots, tokens = after.slots, after.x.shape[1] - 1
        assert slots.max() == tokens - 1
        for image in range(3):
            here = slots[image][slots[image] >= 0]
            counts = torch.bincount(here, minlength=tokens)
            assert torch.equal(counts, after.sizes[image].long())
        lost = (slots < 0) & (before.slots >= 0)
        if lost.any():
            # what they had behind the block that pruned them
            kept = before.slots >= 0
            assert (slots[~kept] == -1).all()
        cells = after.cells()
        middle = (cells.shape[1] - 1) // 2
        own = torch.cat([cells[:, :middle], cells[:, middle + 1 :]], dim=1)
        others, cls = after.split(after.stream)
        assert torch.equal(cells[:, middle : middle + 1], cls)
        alive = slots >= 0
        expected = take_tokens(others, slots.clamp(min=0))
        assert torch.equal(own[alive], expected[alive])
        if after.left is not None:
            assert torch.equal(own[~alive], after.left[~alive])


def test_pruned_cells_keep_what_they_had_when_they_were_pruned():
    # blocks 0 and 1 are those of the plain model
    pruned = dict(PRUNING, blocks=(1,))
    records = seen(make(pruned), images())
    with torch.no_grad():
        # up to there all is as in the plain model
        (plain,) = make(None, out_type='raw', out_indices=(1,))(images())
        (level,) = make(pruned, out_type='raw', out_indices=(1,))(images())
    torch.testing.assert_close(plain, level)
    first = records[1]
    lost = first.slots < 0
    assert lost.sum() == 3 * (15 - 8)
    for later in records[2:]:
        assert torch.equal(later.left[lost], first.left[lost])
        assert torch.equal(later.slots < 0, lost)


@ANY_WAY
def test_an_image_does_not_depend_on_its_batch_mates(reduction):
    net, x = make(reduction), images(4)
    x[1:, :, 32:] = 0  # padding in others
    with torch.no_grad():
        together = net(x)
        alone = [net(one[None]) for one in x]
    for level, maps in enumerate(together):
        torch.testing.assert_close(
            maps, torch.cat([one[level] for one in alone])
        )


@ANY_WAY
def test_padding_is_neither_merged_with_the_image_nor_kept_before_it(
    reduction,
):
    x = images(1)
    x[..., 32:, :] = 0  # 6 of 15 cells show the image
    shown = shown_cells(x, 16)[0]
    assert shown.sum() == 6
    for record in seen(make(reduction), x):
        slots = record.slots[0]
        image, padding = set(slots[shown].tolist()), slots[~shown].tolist()
        assert not (image - {-1}) & set(padding)
        if (slots[shown] < 0).any():
            # no padding is kept while a cell of the image is not
            assert (slots[~shown] < 0).all()


def test_masked_tokens_are_zero_to_the_end_and_their_cells_keep_theirs():
    records = seen(make(MASK), images())
    for block, kept in {1: 8, 3: 4}.items():
        assert (records[block].slots >= 0).sum(dim=1).tolist() == [kept] * 3
    lost = records[1].slots < 0
    for later in records[1:]:
        others, _ = later.split(later.stream)
        assert later.x.shape[1] == 16
        assert (others[lost] == 0).all()
        own, _ = split_cls(later.cells())
        assert torch.equal(own[lost], records[1].left[lost])
    # the first pruning chooses what the other readings choose
    for alignment in (PRUNING, HOLD):
        (other,) = seen(make(alignment), images())[1:2]
        assert torch.equal(other.slots < 0, lost)


def test_sequences_are_collected_inside_the_block_alone():
    net, x = make(MERGING), images(1)
    with torch.no_grad(), collect_sequences() as outer:
        net(x)
        with collect_sequences() as inner:
            net(x)
    net(x)
    assert (len(outer), len(inner)) == (2, 1)
    assert [len(one) for one in outer] == [6, 6]


def test_an_image_that_is_black_after_normalisation_shows_something():
    assert shown_cells(torch.zeros(2, 3, *SIZE), 16).all()


def identity_convolution(mixer: BiMambaMixer) -> None:
    """Let the convolution see one token alone: SiLU of it."""
    with torch.no_grad():
        mixer.conv_weight.zero_()
        mixer.conv_bias.zero_()
        mixer.conv_weight[..., -1] = 1
        # steps of about one, over which states decay
        mixer.dt_bias.fill_(0.5)


def test_decay_is_that_of_a_sequence_with_the_pruned_tokens_masked():
    torch.manual_seed(0)
    mixer = BiMambaMixer(32, d_state=4).double()
    mixer.reset_parameters(depth=4)
    identity_convolution(mixer)
    places = torch.tensor([[0, 1, 2, 6, 7, 11], [1, 3, 4, 8, 9, 10]])
    kept = torch.randn(2, 6, 32, dtype=torch.float64)
    whole = torch.zeros(2, 12, 32, dtype=torch.float64)
    whole.scatter_(1, places[..., None].expand(-1, -1, 32), kept)
    gaps = find_gaps(places, 12)
    with torch.no_grad():
        masked, _ = mixer(whole)
        bridged, _ = mixer(kept, gaps=gaps)
        held, _ = mixer(kept)
    expected = take_tokens(masked, places)
    torch.testing.assert_close(bridged, expected, rtol=1e-10, atol=1e-12)
    assert (held - expected).abs().max() > 1e-5


def test_scores_and_gradients_see_the_same_sequence_over_gaps():
    """A scan that merges directions itself, and one that does not."""
    torch.manual_seed(0)
    mixer = BiMambaMixer(32, d_state=4).double()
    mixer.reset_parameters(depth=4)
    places = torch.tensor([[0, 1, 2, 6, 7, 11], [1, 3, 4, 8, 9, 10]])
    gaps = find_gaps(places, 12)
    x = torch.randn(2, 6, 32, dtype=torch.float64, requires_grad=True)

    def run(score):
        y, importance = mixer(x, score, gaps)
        inputs = [x, *mixer.parameters()]
        return y, torch.autograd.grad(y.square().sum(), inputs), importance

    merged, grads, _ = run(None)
    apart, expected, importance = run(ScoreMetric('clip', 'sum'))
    torch.testing.assert_close(merged, apart, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grads, expected, rtol=1e-9, atol=1e-12)
    assert importance.shape == (2, 6) and (importance >= 0).all()


@ANY_WAY
def test_gradients_reach_every_parameter(reduction):
    net = make(reduction, drop_path_rate=0.5).train()
    sum(level.square().mean() for level in net(images())).backward()
    without = [n for n, p in net.named_parameters() if p.grad is None]
    assert not without


@ANY_WAY
def test_any_size(reduction):
    net = make(reduction, out_indices=(5,))
    with torch.no_grad():
        for size in ((16, 16), (16, 32), (112, 64), (90, 70)):
            (maps,) = net(torch.randn(1, 3, *size))
            assert maps.shape[2:] == tuple(-(-side // 16) for side in size)
            assert maps.isfinite().all()


@pytest.mark.parametrize(
    ('config', 'error'),
    [
        (dict(MERGING, num_merged=-1), r'num_merged .* got -1'),
        (dict(MERGING, blocks=(0, 2)), r'blocks .* got \(0, 2\)'),
        (dict(MERGING, window=1), 'window .* got 1'),
        (dict(PRUNING, ratio=0), r'ratio must be in \(0, 1\], got 0'),
        (dict(PRUNING, alignment='zero'), "alignment .* got 'zero'"),
    ],
)
def test_options_out_of_range_are_named(config, error):
    with pytest.raises(ValueError, match=error):
        make(config)


def test_a_class_may_stand_for_its_name():
    """As in pure Python configs, whatever sizes it needs."""
    for kind in (TokenMerging, DynamicTokens):
        net = make(dict(type=kind, blocks=(2,)))
        assert type(net.token_reduction) is kind
    for wrong in (dict(blocks=(2,)), 'mmscope.TokenMerging'):
        with pytest.raises(TypeError, match='must be the config of a Token'):
            make(wrong)


def test_what_is_no_reduction_and_what_does_not_go_with_one_is_refused():
    with pytest.raises(TypeError, match="got {'type': 'mmscope.Importance'}"):
        make(dict(type='mmscope.Importance'))
    with pytest.raises(ValueError, match="leave out .*'cuda_graphs': True"):
        make(MERGING, cuda_graphs=True)


@pytest.mark.parametrize(
    ('arch', 'reduction', 'published'),
    [
        ('tiny', dict(type='mmscope.TokenMerging'), 1.28),
        ('small', dict(type='mmscope.TokenMerging', num_merged=11), 3.58),
        ('base', dict(type='mmscope.TokenMerging', num_merged=11), 13.21),
        ('small', dict(type='mmscope.HiddenAlignPruning'), 3.60),
        ('tiny', dict(type='mmscope.HiddenAlignPruning', blocks=(9,)), 1.3),
    ],
)
def test_costs_are_those_that_were_published(arch, reduction, published):
    with torch.device('meta'):
        net = VisionMambaBackbone(
            arch,
            out_indices=(23,),
            out_type='cls_token',
            token_reduction=reduction,
        )
    plain = 1000 * net.embed_dims  # the classifier
    count = model_flops(net, (224, 224), 'published').refined.total() + plain
    print(f'{arch}: {count / 1e9:.3f} G, published {published}')
    assert count / 1e9 == pytest.approx(published, rel=0.02)

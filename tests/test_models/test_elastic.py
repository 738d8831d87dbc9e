"""As many cells as an image needs: ladders of alpha, and tau."""

import math

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from mmscope.functional import num_selected
from mmscope.models import MambaScopeBackbone, exit_settings
from mmscope.models.refinement import refine_by_need

LADDER = (0.2, 0.5, 1.0)
CONTRAST = dict(type='mmscope.CellContrast')


def textured(counts: list[int]) -> Tensor:
    """Images of 2 x 3 cells, of which so many have texture."""
    images = torch.full((len(counts), 3, 64, 96), 0.5)
    for image, count in zip(images, counts, strict=True):
        for cell in range(count):
            row, column = divmod(cell, 3)
            window = image[
                :, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32
            ]
            window += torch.randn(1, 32, 32)
    return images


@pytest.fixture
def elastic(make_net) -> MambaScopeBackbone:
    return make_net(alpha=LADDER, tau=0.3, cell_score=CONTRAST)


def test_each_image_gets_the_smallest_share_that_covers_its_cells(
    elastic,
) -> None:
    counts = [0, 1, 2, 3, 4, 6]
    with torch.no_grad():
        result = elastic.scope(textured(counts), eta=1.0)
    # 0.2 of six cells are two
    assert result.num_selected.tolist() == [0, 2, 2, 3, 6, 6]
    assert result.exited.tolist() == [True] + [False] * 5
    for count, cells in zip(counts, result.refined_cells, strict=True):
        assert cells[:count].all()
    assert (result.selected[0] == -1).all()
    assert result.selected[1].tolist()[2:] == [-1] * 4


def test_groups_leave_each_image_as_it_is_alone(elastic) -> None:
    images = textured([3, 0, 6, 1, 2, 5])
    images = images + 0.05 * torch.randn_like(images)
    with torch.no_grad():
        together = elastic.scope(images, eta=1.0)
        for index in range(len(images)):
            alone = elastic.scope(images[index : index + 1], eta=1.0)
            rows = slice(index, index + 1)
            for one, many in zip(
                alone.features, together.features, strict=True
            ):
                torch.testing.assert_close(many[rows], one)
            torch.testing.assert_close(
                together.fine_logits[rows], alone.fine_logits, equal_nan=True
            )
            assert torch.equal(together.selected[rows], alone.selected)


def test_a_fixed_share_is_what_it_was(make_net) -> None:
    """One share, or the same as a ladder of one, with tau refining all."""
    images = textured([1, 4, 2])
    fixed = make_net(alpha=0.5)
    ladder = make_net(alpha=(0.5,), tau=-math.inf)
    ladder.load_state_dict(fixed.state_dict())
    with torch.no_grad():
        one, other = fixed.scope(images), ladder.scope(images)
    assert torch.equal(one.selected, other.selected)
    for a, b in zip(one.features, other.features, strict=True):
        assert torch.equal(a, b)


def test_without_tau_the_largest_share(elastic) -> None:
    elastic.tau = None
    with torch.no_grad():
        result = elastic.scope(textured([0, 1]), eta=1.0)
    assert result.num_selected.tolist() == [6, 6]


def test_eta_and_tau_are_one_budget(elastic) -> None:
    """An image exits if either says so."""
    images = textured([0, 6, 6, 6])
    half = dict(type='mmscope.ForcedExit', share=0.5)
    with torch.no_grad(), exit_settings(elastic, eta=0.5, policy=half):
        assert (
            elastic.scope(images).exited.tolist() == [True, True] + [False] * 2
        )
        none = elastic.scope(images, eta=0.0)
    assert none.exited.all()
    assert none.fine is None


def test_settings_hold_for_a_block(elastic) -> None:
    images = textured([1, 4])
    with torch.no_grad():
        with exit_settings(elastic, alpha=0.5, tau=-math.inf):
            assert elastic.scope(images, eta=1.0).num_selected.tolist() == [
                3,
                3,
            ]
        with exit_settings(elastic, tau=math.inf):
            assert elastic.scope(images, eta=1.0).exited.all()
        assert elastic.scope(images, eta=1.0).num_selected.tolist() == [2, 6]


def test_scores_that_are_not_finite_are_refined(elastic) -> None:
    images = textured([0, 0])
    images[0, :, 40, 40] = math.nan
    with torch.no_grad():
        record = elastic.coarse(images, eta=1.0)
    assert record.exited.tolist() == [False, True]


def test_padding_wants_nothing(elastic) -> None:
    images = textured([6])
    valid = torch.tensor([[[1, 1, 0], [0, 0, 0]]]).bool()
    with torch.no_grad():
        result = elastic.scope(images, valid=valid, eta=1.0)
    assert result.num_selected.tolist() == [2]
    assert result.selected[0, :2].tolist() == [0, 1]


def test_training_draws_from_the_ladder(elastic) -> None:
    elastic.train()
    images = textured([1, 2])
    drawn = {elastic.scope(images).num_selected[0].item() for _ in range(40)}
    assert drawn == {num_selected(share, 6) for share in LADDER}


def test_fixed_training_draws_nothing(make_net) -> None:
    net, images = make_net(alpha=0.5).train(), textured([1])
    state = torch.get_rng_state()
    net.scope(images)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    'options',
    [
        dict(alpha=LADDER),
        dict(alpha=LADDER, unselected='drop'),
        dict(alpha=0.5, unselected='drop', num_context=2),
        dict(alpha=LADDER, unselected='drop', exit_head=None, reuse='none'),
    ],
)
def test_gradients_reach_everything(make_net, options) -> None:
    net = make_net(**options).train()
    images = textured([1, 2, 3])
    for _ in range(12):
        result = net.scope(images)
        loss = sum(m.square().mean() for m in result.features)
        if net.exit_head is not None:
            loss = loss + result.coarse_logits.square().mean()
            loss = loss + result.fine_logits.square().mean()
        loss.backward()
    without = [
        name
        for name, p in net.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)
    ]
    assert without == []


def test_smallest_number_that_covers() -> None:
    exited = torch.tensor([False, True, False, False, False])
    wanted = torch.tensor([1, 5, 2, 3, 9])
    found = refine_by_need(exited, wanted, [2, 4, 6], torch.zeros(5, 6))
    assert found.hard.tolist() == [0, 2, 3, 4]
    assert [(num, index.tolist()) for num, index in found.groups] == [
        (2, [0, 1]),
        (4, [2]),
        (6, [3]),
    ]


# ------------------------------------------------------ dropped cells ----


def test_dropped_cells_keep_their_coarse_features(make_net) -> None:
    net = make_net(unselected='drop')
    images = textured([2, 5])
    with torch.no_grad():
        result = net.scope(images, eta=1.0)
    kept = ~result.refined_cells.unflatten(1, (2, 3))
    for fine, coarse in zip(
        result.features, result.coarse_features, strict=True
    ):
        wide = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
        mask = kept.repeat_interleave(2, 1).repeat_interleave(2, 2)
        mask = mask.unsqueeze(1).expand_as(wide)
        assert torch.equal(fine[mask], wide[mask])
        assert not torch.equal(fine[~mask], wide[~mask])


def test_dropped_cells_are_not_in_the_sequence(make_net, monkeypatch) -> None:
    lengths = []
    for context in (0, 2):
        net = make_net(unselected='drop', num_context=context)
        encode = net.encode

        def watch(x: Tensor, *args: object, encode=encode) -> object:
            lengths.append(x.shape[1])
            return encode(x, *args)

        monkeypatch.setattr(net, 'encode', watch)
        with torch.no_grad():
            net.scope(textured([3]), eta=1.0)
    # 6 coarse cells, 3 refined ones of 4 tokens, CLS, and the context
    assert lengths == [7, 13, 7, 15]


def test_all_cells_refined_leaves_nothing_to_drop(make_net) -> None:
    images = textured([3, 1])
    carried = make_net(alpha=1.0)
    dropped = make_net(alpha=1.0, unselected='drop', num_context=3)
    dropped.load_state_dict(carried.state_dict())
    with torch.no_grad():
        one, other = carried.scope(images), dropped.scope(images)
    for a, b in zip(one.features, other.features, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize('order', ['important_first', 'raster'])
def test_context_changes_what_the_fine_pass_sees(make_net, order) -> None:
    images = textured([2])
    nets = [
        make_net(unselected='drop', num_context=n, token_order=order)
        for n in (0, 2)
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    with torch.no_grad():
        without, with_context = (
            net.scope(images, eta=1.0).features[-1] for net in nets
        )
    assert not torch.allclose(without, with_context)


# -------------------------------------------------------------- errors ----


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(alpha=(0.5, 0.2)), 'ascending shares'),
        (dict(alpha=(0.0, 0.5)), 'a share of 0 is an exit'),
        (dict(alpha=()), 'ascending shares'),
        (dict(alpha=(0.5, 1.5)), 'alpha must be in'),
        (dict(alpha='0.5'), "alpha must be a number .* got '0.5'"),
        (dict(tau='high'), "tau must be a number or None, got 'high'"),
        (dict(tau=math.nan), 'tau must be a number'),
        (dict(tau=[0.1]), r'tau must be a number or None, got \[0.1\]'),
        (dict(tau=torch.rand(2)), 'tau must be a number'),
        (dict(num_context=2), "unselected='embedding' drops none"),
        (dict(num_context=-1, unselected='drop'), 'at least 0, got -1'),
    ],
)
def test_bad_options(make_net, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_net(**options)


def test_elastic_segmentor_answers_as_each_image_alone(
    make_segmentor,
) -> None:
    """Several shares in one batch, decoded coarse and fine."""
    model = make_segmentor(
        backbone__alpha=LADDER,
        backbone__cell_score=dict(type='mmscope.CoarseUncertainty'),
    )
    images = [torch.randn(3, 64, 96) * s for s in (0.1, 0.5, 1, 2, 4, 8)]

    def sample() -> SegDataSample:
        size = (64, 96)
        mask = PixelData(data=torch.zeros(1, *size, dtype=torch.long))
        meta = dict(img_shape=size, ori_shape=size)
        return SegDataSample(gt_sem_seg=mask, metainfo=meta)

    with torch.no_grad(), exit_settings(model, eta=1.0):
        scores = model.backbone
        with (
            model.showing(torch.stack(images), None),
            model.deciding(torch.stack(images)),
        ):
            found = scores.coarse(torch.stack(images)).refinement.scores
        # between the images: some want nothing, some want a part
        tau = found.flatten().median().item()
        with exit_settings(model, tau=tau):
            together = model.test_step(
                dict(inputs=images, data_samples=[sample() for _ in images])
            )
            alone = [
                model.test_step(dict(inputs=[one], data_samples=[sample()]))[0]
                for one in images
            ]
    assert len({one.refined_share for one in together}) > 1
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.seg_logits.data, other.seg_logits.data)
        assert one.refined_share == other.refined_share
        assert one.exited == (one.refined_share == 0)


def test_a_share_is_written_as_it_is_meant(make_segmentor) -> None:
    """Without the noise of float32, whose 0.2 is 0.2000000030."""
    model = make_segmentor(backbone__alpha=0.2)
    sample = SegDataSample(
        metainfo=dict(img_shape=(64, 160), ori_shape=(64, 160))
    )
    with torch.no_grad():
        (found,) = model.test_step(
            dict(inputs=[torch.randn(3, 64, 160)], data_samples=[sample])
        )
    assert found.refined_share == 0.2

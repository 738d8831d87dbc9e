"""The record of a pass."""

import pytest
import torch

from mmscope.models import exit_settings


@pytest.fixture
def mixed(make_net):
    """A net, and the record of a batch of which half exits."""
    net = make_net()
    images = torch.linspace(0.2, 4, 4).view(-1, 1, 1, 1)
    images = images * torch.randn(4, 3, 64, 96)
    half = dict(type='mmscope.ForcedExit', share=0.5)
    with torch.no_grad(), exit_settings(net, eta=0.5, policy=half):
        return net, net.coarse(images), images


def test_coarse_starts_the_record_and_fine_completes_it(mixed) -> None:
    net, coarse, images = mixed
    assert coarse.hard.tolist() == [2, 3]
    assert coarse.easy.tolist() == [0, 1]
    with torch.no_grad():
        result = net.fine(coarse)
        alone = net.scope(images[2:], eta=1.0)
    assert coarse.fine is None
    torch.testing.assert_close(result.features[-1][2:], alone.features[-1])
    assert torch.equal(result.selected[2:], alone.selected)
    assert (result.selected[:2] == -1).all()
    assert result.fine_logits[:2].isnan().all()
    torch.testing.assert_close(result.fine_logits[2:], alone.fine_logits)


def test_record_without_its_fine_stage_has_no_features(mixed) -> None:
    _, coarse, _ = mixed
    for read in (
        lambda: coarse.features,
        lambda: coarse.fine_logits,
        lambda: coarse.selected,
        coarse.groups,
    ):
        with pytest.raises(RuntimeError, match='2 images are to be refined'):
            read()
    assert len(coarse.coarse_features) == 2
    assert coarse.coarse_logits.shape == (4, 5)


def test_groups_are_the_stages_that_images_ended_in(mixed) -> None:
    net, coarse, _ = mixed
    with torch.no_grad():
        result = net.fine(coarse)
    (easy, small), (hard, large) = result.groups()
    assert (easy.tolist(), hard.tolist()) == ([0, 1], [2, 3])
    assert small[0].shape[2:] == (2, 3)
    assert large[0].shape[2:] == (4, 6)
    ((rows, maps),) = result.all_exited().groups()
    assert rows is None
    assert maps is result.coarse.maps


def test_all_exited_is_the_record_at_eta_0(mixed) -> None:
    net, coarse, images = mixed
    with torch.no_grad():
        result = net.fine(coarse).all_exited()
        expected = net.scope(images, eta=0.0)
    assert result.exited.all()
    for one, other in zip(result.features, expected.features, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(result.selected, expected.selected)

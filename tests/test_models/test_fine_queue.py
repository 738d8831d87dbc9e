"""Hard images wait for each other, and come out as they would alone."""

import pytest
import torch

from mmscope.models import FineQueue

ETA = 0.5


def images(number: int) -> torch.Tensor:
    return torch.rand(number, 3, 64, 96)


def let_tests_choose(net) -> None:
    """Images exit where ``net.wanted`` is 1."""
    net.exit_head.confidence = lambda logits: net.wanted


def look_at(net, batch: torch.Tensor, exited: list[int]):
    net.wanted = torch.tensor(exited).float()
    return net.look(batch, eta=ETA)


def test_buckets_are_filled_over_batches_and_nothing_is_lost(make_net) -> None:
    net = make_net()
    let_tests_choose(net)
    batches = [images(3) for _ in range(4)]
    exits = [[0, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 1]]
    queue, passes = FineQueue(net, bucket=2), []
    with torch.no_grad():
        for number, (batch, exited) in enumerate(
            zip(batches, exits, strict=True)
        ):
            look = look_at(net, batch, exited)
            names = 3 * number + torch.arange(3)
            passes.append(queue.push(look, names))
        passes.append(queue.flush())
        assert queue.flush() == []
        alone = [net.scope(batch, eta=1) for batch in batches]
    named = [[names.tolist() for names, _ in done] for done in passes]
    # images 0 2 | none | 6 7, 8 waits | with 10 | none is left
    assert named == [[[0, 2]], [], [[6, 7]], [[8, 10]], []]
    for names, fine in (one for done in passes for one in done):
        for row, name in enumerate(names.tolist()):
            batch, index = divmod(name, 3)
            expected = alone[batch]
            for own, maps in zip(fine.maps, expected.features, strict=True):
                torch.testing.assert_close(own[row], maps[index])
            torch.testing.assert_close(
                fine.logits[row], expected.fine_logits[index]
            )


def test_what_is_left_comes_with_flush_and_keeps_its_padding(make_net) -> None:
    net = make_net()
    let_tests_choose(net)
    queue, batch = FineQueue(net, bucket=9), images(2)
    valid = torch.tensor([[[1, 1, 0]] * 2, [[1, 0, 0]] * 2]).bool()
    with torch.no_grad():
        net.wanted = torch.tensor([0.0, 0.0])
        look = net.look(batch, valid, eta=ETA)
        assert queue.push(look, torch.arange(2)) == []
        [(names, fine)] = queue.flush()
        assert queue.flush() == []
        expected = net.scope(batch, valid, eta=1)
    assert names.tolist() == [0, 1]
    assert torch.equal(fine.selected, expected.selected)
    # the last column is padding, and no cell of it is refined
    assert not (fine.selected[0] % 3 == 2).any()


def test_a_bucket_holds_an_image(make_net) -> None:
    with pytest.raises(ValueError, match='bucket must be at least 1, got 0'):
        FineQueue(make_net(), 0)

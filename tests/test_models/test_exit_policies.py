import json

import pytest
import torch
from torch import Tensor

from mmscope.functional import multi_label_confidence
from mmscope.models import (
    ForcedExit,
    LearnedRouter,
    OracleExit,
    PixelConfidence,
    RandomExit,
    exit_settings,
)
from mmscope.models.evidence import Evidence
from mmscope.models.exit_policies import build_policy
from mmscope.models.stages import CoarseStage


def evidence(
    logits: Tensor, paths: list[str] | None = None, decoder: object = None
) -> Evidence:
    batch = len(logits)
    coarse = CoarseStage(
        tokens=torch.zeros(batch, 6, 4),
        features=None,
        cls=torch.randn(batch, 4),
        maps=(),
        importance=torch.zeros(batch, 6),
    )
    content = torch.ones(batch, 1, 8, 8)
    return Evidence(
        coarse,
        logits,
        images=torch.zeros(batch, 3, 8, 8),
        content=content,
        cell_side=4,
        paths=paths or [''] * batch,
        decoder=decoder,
    )


def test_head_confidence_is_the_named_mode() -> None:
    logits = torch.randn(3, 5)
    for mode in ('max', 'min_positive', 'certainty', 'mean_positive'):
        found = build_policy(mode)(evidence(logits))
        assert torch.equal(found, multi_label_confidence(logits, mode))


def test_pixel_confidence_ignores_padding() -> None:
    """Two classes; the right half is padding of another confidence."""
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 0, :, :2] = torch.tensor(0.8 / 0.2).log()
    seen = evidence(torch.zeros(1, 2), decoder=lambda maps: logits)
    seen.content[:, :, :, 4:] = 0
    assert PixelConfidence()(seen).item() == pytest.approx(0.8)
    seen.content[:] = 1
    assert PixelConfidence()(seen).item() == pytest.approx(0.65)


def test_pixel_confidence_of_a_binary_head() -> None:
    """One channel: the surer of foreground and background."""
    logits = torch.tensor([0.9, 0.2]).logit().view(2, 1, 1, 1)
    seen = evidence(
        torch.zeros(2, 2), decoder=lambda maps: logits.expand(2, 1, 4, 4)
    )
    assert PixelConfidence()(seen).tolist() == pytest.approx([0.9, 0.8])


def test_coarse_maps_are_decoded_once() -> None:
    calls = []

    def decoder(maps: tuple) -> Tensor:
        calls.append(maps)
        return torch.zeros(1, 2, 4, 4)

    seen = evidence(torch.zeros(1, 2), decoder=decoder)
    assert PixelConfidence()(seen) == PixelConfidence()(seen)
    assert len(calls) == 1


@pytest.mark.parametrize(('share', 'expected'), [(0, 0), (0.5, 2), (1, 4)])
def test_forced_exits_are_the_first_of_a_batch(share, expected) -> None:
    confidence = ForcedExit(share)(evidence(torch.zeros(4, 2)))
    assert confidence.tolist() == [1.0] * expected + [0.0] * (4 - expected)


def test_forced_exits_ask_the_policy_that_they_overrule() -> None:
    forced = ForcedExit(1, dict(type='mmscope.PixelConfidence'))
    assert forced.decodes
    assert not ForcedExit(1).decodes
    seen = evidence(
        torch.zeros(1, 2), decoder=lambda maps: torch.zeros(1, 2, 4, 4)
    )
    assert forced(seen) == 1
    assert seen.decoded is not None


def test_pixel_confidence_needs_pixels() -> None:
    with pytest.raises(TypeError, match='MambaScopeSegmentor'):
        PixelConfidence()(evidence(torch.zeros(1, 2)))


def test_chance_depends_on_path_and_seed_alone() -> None:
    logits = torch.zeros(2, 2)
    both = RandomExit()(evidence(logits, ['/x/a.jpg', '/x/b.jpg']))
    one = RandomExit()(evidence(logits[:1], ['/x/b.jpg']))
    assert both[1] == one[0] != both[0]
    namesake = RandomExit()(evidence(logits[:1], ['/y/b.jpg']))
    assert namesake[0] != one[0]
    other = RandomExit(seed=1)(evidence(logits[:1], ['/x/b.jpg']))
    assert other[0] != one[0]
    unnamed = RandomExit()
    draws = {unnamed(evidence(logits[:1])).item() for _ in range(3)}
    assert len(draws) == 3


def test_chance_is_uniform() -> None:
    names = [f'{i}.jpg' for i in range(2000)]
    drawn = RandomExit()(evidence(torch.zeros(2000, 2), names))
    quarters = torch.histc(drawn, bins=4, min=0, max=1) / 2000
    assert torch.allclose(quarters, torch.full((4,), 0.25), atol=0.04)


def test_oracle_prefers_what_loses_least(tmp_path) -> None:
    path = tmp_path / 'losses.json'
    path.write_text(
        json.dumps({'x/a.jpg': 30.0, 'x/b.jpg': -2.0, 'y/a.jpg': 5.0})
    )
    oracle = OracleExit(str(path))
    seen = evidence(torch.zeros(3, 2), ['x/a.jpg', 'x/b.jpg', 'y/a.jpg'])
    assert oracle(seen).argsort(descending=True).tolist() == [1, 2, 0]
    with pytest.raises(KeyError, match=r"no image 'd.jpg'"):
        oracle(evidence(torch.zeros(1, 2), ['d.jpg']))
    with pytest.raises(FileNotFoundError, match='eta_sweep'):
        OracleExit(str(tmp_path / 'none.json'))


def test_unknown_policy_is_named() -> None:
    with pytest.raises(ValueError, match=r"one of .*'pixel'.* got 'pixels'"):
        build_policy('pixels')


def test_segmentor_exits_by_its_policy(make_segmentor) -> None:
    """The policy's confidence decides, and is what predictions carry."""
    model = make_segmentor(
        backbone__exit_policy=dict(type='mmscope.PixelConfidence')
    )
    images = torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        found = [s.exit_confidence for s in model.predict(images)]
        with exit_settings(model, policy=dict(type='mmscope.HeadConfidence')):
            own = [s.exit_confidence for s in model.predict(images)]
    assert max(abs(a - b) for a, b in zip(found, own, strict=True)) > 1e-3


@pytest.mark.parametrize('resolution', ['coarse', 'fine'])
def test_pixel_policy_keeps_the_answer_that_it_saw(
    make_segmentor, resolution
) -> None:
    """The coarse maps are decoded once, and exited images keep that."""
    model = make_segmentor(
        backbone__exit_policy=dict(type='mmscope.PixelConfidence'),
        backbone__exit_resolution=resolution,
    )
    torch.manual_seed(0)
    images = torch.randn(4, 3, 64, 96) * torch.tensor([0.1, 1, 3, 9]).view(
        4, 1, 1, 1
    )
    calls = []
    predict = model.decode_head.predict
    model.decode_head.predict = lambda maps, *args: (
        calls.append(len(maps[0])) or predict(maps, *args)
    )
    with torch.no_grad():
        confidence = sorted(s.exit_confidence for s in model.predict(images))
        model.backbone.eta = sum(confidence[1:3]) / 2
        calls.clear()
        mixed = model.predict(images)
        assert calls == [4, 2]
        model.backbone.eta = 0.0
        coarse = model.predict(images)
    for both, easy in zip(mixed, coarse, strict=True):
        same = torch.equal(both.seg_logits.data, easy.seg_logits.data)
        assert same == both.exited


def test_router_is_not_trained_with_the_model(make_segmentor) -> None:
    model = make_segmentor(
        backbone__exit_policy=dict(
            type='mmscope.LearnedRouter', in_channels=32, num_classes=5
        )
    )
    router = model.backbone.exit_policy
    assert isinstance(router, LearnedRouter)
    assert not any(p.requires_grad for p in router.parameters())
    with torch.no_grad():
        seen = evidence(torch.randn(3, 5))
        seen.coarse = seen.coarse._replace(cls=torch.randn(3, 32))
        found = router(seen)
    assert found.shape == (3,)
    assert ((found > 0) & (found < 1)).all()

"""One way to set exits, honoured by every way to run a model."""

import threading

import pytest
import torch
from detectors import build, cascade_config, make_sample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmscope.models import (
    ForcedExit,
    MambaScopeBackbone,
    coarse_answers,
    collect_passes,
    exit_settings,
    has_exits,
)
from mmscope.models.exit_policies import build_policy

PIXELS = dict(type='mmscope.PixelConfidence')


def varied(count: int) -> Tensor:
    scales = torch.linspace(0.2, 4, count).view(-1, 1, 1, 1)
    return scales * torch.randn(count, 3, 64, 96)


def samples(count: int) -> list[SegDataSample]:
    meta = dict(img_shape=(64, 96), ori_shape=(64, 96))
    return [SegDataSample(metainfo=dict(meta)) for _ in range(count)]


def predict(model: nn.Module, images: Tensor) -> list[SegDataSample]:
    data = dict(inputs=list(images), data_samples=samples(len(images)))
    with torch.no_grad():
        return model.test_step(data)


RUNS = dict(
    predict=predict,
    tensor=lambda model, images: model(images, samples(4), mode='tensor'),
    encode_decode=lambda model, images: model.encode_decode(
        images, [dict(img_shape=(64, 96))] * 4
    ),
    features=lambda model, images: model.extract_feat(images),
    backbone=lambda model, images: model.backbone(images),
    scope=lambda model, images: model.backbone.scope(images),
)


@pytest.mark.parametrize('way', sorted(RUNS))
def test_settings_hold_for_every_way_to_run_a_model(segmentor, way) -> None:
    images = varied(4)
    settings = exit_settings(segmentor, eta=0.5, policy=ForcedExit(0.5))
    with torch.no_grad(), settings, collect_passes(segmentor) as passes:
        RUNS[way](segmentor, images)
    (result,) = passes
    assert result.exited.tolist() == [True, True, False, False]
    assert result.confidence.tolist() == [1, 1, 0, 0]
    with torch.no_grad(), collect_passes(segmentor) as passes:
        RUNS[way](segmentor, images)
    assert not passes[0].exited.any()


@pytest.mark.parametrize('way', sorted(RUNS.keys() - {'backbone', 'scope'}))
def test_a_policy_of_the_config_decides_every_way(make_segmentor, way) -> None:
    model = make_segmentor(backbone__exit_policy=PIXELS)
    images = varied(4)
    with torch.no_grad(), collect_passes(model) as passes:
        RUNS[way](model, images)
    confidence = passes[0].confidence
    own = model.backbone.exit_head.confidence(passes[0].coarse_logits)
    assert not torch.allclose(confidence, own, atol=1e-3)
    (at_once,) = predict(model, images[:1])
    assert confidence[0].item() == pytest.approx(
        at_once.exit_confidence, abs=1e-5
    )


def test_settings_hold_in_every_window(make_segmentor) -> None:
    model = make_segmentor(
        test_cfg=dict(mode='slide', crop_size=(64, 48), stride=(32, 48))
    )
    with (
        exit_settings(model, eta=0.5, policy=ForcedExit(0.5)),
        collect_passes(model) as passes,
    ):
        found = predict(model, varied(2))
    assert len(passes) == 2
    assert [one.exited for one in found] == [1.0, 0.0]


def test_settings_hold_in_detectors() -> None:
    model = build(cascade_config())
    images = varied(2)
    with (
        torch.no_grad(),
        exit_settings(model, eta=0.5, policy=ForcedExit(0.5)),
    ):
        found = model.predict(images, [make_sample(), make_sample()])
        with collect_passes(model) as passes:
            model(images, [make_sample(), make_sample()], mode='tensor')
    assert [one.exited for one in found] == [True, False]
    assert passes[0].exited.tolist() == [True, False]


@pytest.mark.parametrize('resolution', ['fine', 'coarse'])
def test_resolution_is_a_setting(make_segmentor, resolution) -> None:
    model = make_segmentor(backbone__exit_resolution=resolution)
    other = 'coarse' if resolution == 'fine' else 'fine'
    images, seen = varied(1), []
    model.neck.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0][0].shape[2:])
    )
    with exit_settings(model, eta=0.0, resolution=other):
        predict(model, images)
    sizes = dict(fine=(4, 6), coarse=(2, 3))
    assert [tuple(size) for size in seen] == [sizes[other]]
    assert model.backbone.exit_resolution == resolution


def test_compiled_backbone_goes_by_the_settings_of_each_call(make_net) -> None:
    net, images = make_net(), varied(2)
    compiled = torch.compile(net, backend='eager')
    for eta in (1.0, 0.0, 1.0):
        with torch.no_grad(), exit_settings(net, eta=eta):
            torch.testing.assert_close(compiled(images), net(images))


def test_inner_settings_add_to_outer_ones_and_end(make_net) -> None:
    net = make_net(eta=0.9)
    with exit_settings(net, eta=0.5, resolution='coarse'):
        with pytest.raises(KeyError), exit_settings(net, eta=0.2):
            assert net.exit_settings[:3] == (0.2, None, 'coarse')
            raise KeyError
        assert net.exit_settings[:3] == (0.5, None, 'coarse')
    assert net.exit_settings[:3] == (0.9, None, 'fine')


def test_settings_are_those_of_one_backbone(make_net) -> None:
    net, other = make_net(), make_net()
    with exit_settings(net, eta=0.0):
        assert net.scope(varied(1)).exited.all()
        assert not other.scope(varied(1)).exited.any()


def test_settings_are_those_of_one_thread(make_net) -> None:
    net, seen = make_net(eta=1.0), []
    entered, done = threading.Event(), threading.Event()

    def other() -> None:
        with exit_settings(net, eta=0.0):
            entered.set()
            done.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(10)
    seen.append(net.exit_settings.eta)
    done.set()
    thread.join()
    assert seen == [1.0]


def test_kept_coarse_answers_in_two_threads(make_segmentor) -> None:
    """Each thread gets the answers of a lone run, and eta stays."""
    model = make_segmentor(test_cfg=dict(mode='whole', keep_coarse=True))
    images = varied(3)
    alone = predict(model, images)
    wrong: list[bool] = []

    def run() -> None:
        for _ in range(6):
            for one, other in zip(predict(model, images), alone, strict=True):
                same = one.exited == other.exited and torch.allclose(
                    one.seg_logits.data, other.seg_logits.data, atol=1e-4
                )
                wrong.append(not same)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 36
    assert not any(wrong)
    assert model.backbone.eta == 1.0


@pytest.mark.parametrize('policy', [None, PIXELS])
def test_kept_coarse_answer_costs_no_pass(make_segmentor, policy) -> None:
    """It is what eta=0 answers, from the one coarse pass that was run."""
    model = make_segmentor(
        test_cfg=dict(mode='slide', crop_size=(64, 48), stride=(32, 48)),
        backbone__exit_policy=policy,
    )
    images = varied(2)
    with exit_settings(model, eta=0.0):
        coarse = predict(model, images)
    model.test_cfg['keep_coarse'] = True
    with collect_passes(model) as passes:
        both = predict(model, images)
    assert len(passes) == 2
    for sample, expected in zip(both, coarse, strict=True):
        assert sample.exited == 0
        assert sample.coarse_answer.exited == 1
        torch.testing.assert_close(
            sample.coarse_answer.seg_logits.data, expected.seg_logits.data
        )


def test_coarse_answers_need_the_same_images(segmentor) -> None:
    images = varied(2)
    with collect_passes(segmentor) as passes:
        predict(segmentor, images)
    for wrong in (images[:1], torch.cat([images, images])):
        with (
            coarse_answers(segmentor, passes),
            pytest.raises(RuntimeError, match='same images'),
        ):
            predict(segmentor, wrong)


def test_compared_policies_judge_one_coarse_pass(segmentor) -> None:
    images = varied(3)
    compared = {'pixel': PIXELS, 'max': build_policy('max')}
    with (
        exit_settings(segmentor, eta=0.0, compared=compared),
        collect_passes(segmentor) as passes,
    ):
        found = predict(segmentor, images)
    assert len(passes) == 1
    for name, policy in compared.items():
        with exit_settings(segmentor, policy=policy):
            alone = predict(segmentor, images)
        for one, other in zip(found, alone, strict=True):
            assert one.exit_confidences[name] == pytest.approx(
                other.exit_confidence, abs=1e-6
            )
    own = [one.exit_confidence for one in found]
    assert own == pytest.approx(
        [one.exit_confidence for one in predict(segmentor, images)]
    )
    assert 'exit_confidences' not in predict(segmentor, images)[0]


def test_unmodified_segmentor_cannot_look_at_pixels(segmentor_config) -> None:
    cfg = segmentor_config
    del cfg['coarse_decode_weight']
    cfg['type'] = 'EncoderDecoder'
    cfg['backbone']['exit_policy'] = PIXELS
    cfg['data_preprocessor'] = dict(type='SegDataPreProcessor')
    init_default_scope('mmseg')
    model = MODELS.build(cfg).eval()
    with pytest.raises(TypeError, match='use mmscope.MambaScopeSegmentor'):
        model(varied(1), mode='predict')


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(eta=1.5), ValueError, r'eta must be in \[0, 1\], got 1.5'),
        (dict(resolution='half'), ValueError, "resolution must .* got 'half'"),
        (dict(policy=dict(type='mmscope.No')), KeyError, 'No'),
        (
            dict(policy=dict(type='mmscope.ForcedExit', share=2)),
            ValueError,
            r'share must be in \[0, 1\], got 2',
        ),
    ],
)
def test_bad_settings_are_refused(make_net, options, error, message) -> None:
    with (
        pytest.raises(error, match=message),
        exit_settings(make_net(), **options),
    ):
        pass


def test_models_without_exits_have_no_settings(make_net, make_vim) -> None:
    with (
        pytest.raises(TypeError, match='MambaScopeBackbone, got Vision'),
        exit_settings(make_vim(), eta=0.5),
    ):
        pass
    with (
        pytest.raises(ValueError, match='exit_head=None'),
        exit_settings(make_net(exit_head=None), eta=0.5),
    ):
        pass
    with pytest.raises(ValueError, match='judges what an exit_head says'):
        make_net(exit_head=None, exit_policy=PIXELS)


class OwnBackbone(MambaScopeBackbone):
    """A subclass that a config names by its class."""


@pytest.mark.parametrize(
    ('kind', 'expected'),
    [
        ('mmscope.MambaScopeBackbone', True),
        ('MambaScopeBackbone', True),
        ('mmscope.models.mambascope.MambaScopeBackbone', True),
        (MambaScopeBackbone, True),
        (OwnBackbone, True),
        ('mmscope.VisionMambaBackbone', False),
        ('mmseg.ResNet', False),
        ('NoSuchBackbone', False),
    ],
)
def test_exits_are_told_from_any_way_to_write_a_type(kind, expected) -> None:
    backbone = dict(type=kind)
    whole = dict(model=dict(backbone=backbone), default_scope='mmseg')
    for cfg in (backbone, dict(backbone=backbone), whole):
        assert has_exits(cfg) is expected
    assert not has_exits(dict(backbone=dict(backbone, exit_head=None)))


def test_exits_are_told_from_a_config_in_pure_python(tmp_path) -> None:
    path = tmp_path / 'config.py'
    path.write_text(
        'from mmscope.models import MambaScopeBackbone\n'
        'model = dict(backbone=dict(type=MambaScopeBackbone))\n'
    )
    cfg = Config.fromfile(path, lazy_import=True)
    assert has_exits(cfg)
    cfg.dump(tmp_path / 'dumped.py')
    assert has_exits(Config.fromfile(tmp_path / 'dumped.py'))
    cfg.model.backbone.exit_head = None
    assert not has_exits(cfg)


def test_exits_are_told_from_models(segmentor, make_net, make_vim) -> None:
    assert has_exits(segmentor)
    assert has_exits(make_net())
    assert not has_exits(make_net(exit_head=None))
    assert not has_exits(make_vim())

import copy

import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmscope.models import MambaScopeSegmentor, collect_passes
from mmscope.models.early_exit import frozen_batch_norm


def samples(sizes: list[tuple[int, int]], classes: int = 5) -> list:
    return [
        SegDataSample(
            gt_sem_seg=PixelData(data=torch.randint(0, classes, (1, *size))),
            metainfo=dict(img_shape=size, ori_shape=size),
        )
        for size in sizes
    ]


def varied(count: int, size: tuple[int, int] = (64, 96)) -> Tensor:
    scales = torch.linspace(0.2, 4, count).view(-1, 1, 1, 1)
    return scales * torch.randn(count, 3, *size)


def predict(model: MambaScopeSegmentor, images: list[Tensor]) -> list:
    sizes = [tuple(image.shape[1:]) for image in images]
    with torch.no_grad():
        return model.test_step(
            dict(inputs=images, data_samples=samples(sizes))
        )


def train_step(model: MambaScopeSegmentor) -> dict[str, Tensor]:
    model.train()
    data = dict(inputs=list(varied(2)), data_samples=samples([(64, 96)] * 2))
    data = model.data_preprocessor(data, True)
    return model(**data, mode='loss')


@pytest.mark.parametrize('resolution', ['fine', 'coarse'])
@pytest.mark.parametrize('weight', [0.0, 0.4])
def test_one_step_trains_every_parameter(
    make_segmentor, resolution, weight
) -> None:
    model = make_segmentor(
        backbone__exit_resolution=resolution, coarse_decode_weight=weight
    )
    losses = train_step(model)
    assert {'loss_exit', 'loss_consistency', 'decode.loss_ce'} <= set(losses)
    assert ('coarse_decode.loss_ce' in losses) is (weight > 0)
    loss, _ = model.parse_losses(losses)
    loss.backward()
    without = [
        n
        for n, p in model.named_parameters()
        if p.requires_grad and p.grad is None
    ]
    assert without == []


def test_head_runs_on_channels_last_maps(make_segmentor) -> None:
    """The layout in which mmseg's convolutions are fastest."""
    model = make_segmentor()
    seen = []
    model.neck.register_forward_hook(
        lambda module, inputs, maps: seen.extend(maps)
    )
    with torch.no_grad():
        model.encode_decode(
            torch.rand(2, 3, 64, 96), [dict(img_shape=(64, 96))] * 2
        )
    finest = max(seen, key=torch.Tensor.numel)
    assert finest.is_contiguous(memory_format=torch.channels_last)


def test_loss_weights_scale_their_terms(make_segmentor) -> None:
    model = make_segmentor()
    weights = copy.deepcopy(model.state_dict())
    torch.manual_seed(1)
    once = train_step(model)
    model.load_state_dict(weights)
    model.exit_weight, model.consistency_weight = 3.0, 5.0
    model.coarse_decode_weight = 0.8
    torch.manual_seed(1)
    more = train_step(model)
    for name, factor in (
        ('loss_exit', 3),
        ('loss_consistency', 5),
        ('coarse_decode.loss_ce', 2),
        ('decode.loss_ce', 1),
    ):
        torch.testing.assert_close(
            more[name], factor * once[name], rtol=1e-3, atol=1e-5
        )


def test_exit_target_is_the_classes_of_the_mask(make_segmentor) -> None:
    mask = torch.full((1, 64, 96), 255)
    mask[0, :3, :3] = 4
    mask[0, 60:, 90:] = 1
    sample = SegDataSample(gt_sem_seg=PixelData(data=mask))
    assert make_segmentor().exit_target([sample]).tolist() == [[0, 1, 0, 0, 1]]


def test_coarse_loss_leaves_batch_norm_alone(make_segmentor) -> None:
    model = make_segmentor().train()
    data = samples([(64, 96)] * 2)
    result = model.backbone.scope(varied(2))
    before = copy.deepcopy(model.state_dict())
    model._coarse_decode_loss(result, data)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], msg=name)
    assert model.neck.training
    assert all(m.training for m in model.decode_head.modules())


def test_coarse_loss_decodes_as_inference_does(make_segmentor) -> None:
    """Perfect targets for the inferred logits give the loss of these."""
    for resolution in ('fine', 'coarse'):
        model = make_segmentor(backbone__exit_resolution=resolution)
        images = varied(2)
        predictions = [
            p.seg_logits.data for p in predict_at(model, list(images), 0.0)
        ]
        model.train()
        data = samples([(64, 96)] * 2)
        with torch.no_grad():
            result = model.backbone.scope(images)
            loss = model._coarse_decode_loss(result, data)
        expected = torch.nn.functional.cross_entropy(
            torch.stack(predictions),
            torch.cat([s.gt_sem_seg.data for s in data]),
        )
        torch.testing.assert_close(
            loss['coarse_decode.loss_ce'], 0.4 * expected
        )


def predict_at(
    model: MambaScopeSegmentor, images: list[Tensor], eta: float
) -> list:
    model.backbone.eta = eta
    return predict(model, images)


@pytest.mark.parametrize('resolution', ['fine', 'coarse'])
def test_mixed_batch_equals_each_image_alone(
    make_segmentor, resolution
) -> None:
    model = make_segmentor(backbone__exit_resolution=resolution)
    model.backbone.exit_head.fc.weight.data *= 50
    images = list(varied(6))
    confidence = [p.exit_confidence for p in predict_at(model, images, 1.0)]
    middle = sorted(confidence)
    eta = (middle[2] + middle[3]) / 2
    together = predict_at(model, images, eta)
    exits = [p.exited for p in together]
    assert exits == [c >= eta for c in confidence]
    assert 0 < sum(exits) < 6
    for image, sample in zip(images, together, strict=True):
        (alone,) = predict_at(model, [image], float(not sample.exited))
        torch.testing.assert_close(
            sample.seg_logits.data, alone.seg_logits.data
        )
        assert sample.exit_confidence == pytest.approx(
            alone.exit_confidence, abs=1e-5
        )


def test_images_of_several_sizes_keep_their_order(make_segmentor) -> None:
    model = make_segmentor(backbone__eta=0.5)
    sizes = [(64, 96), (70, 90), (64, 96), (40, 100), (96, 96)]
    images = [torch.randn(3, *size) for size in sizes]
    together = predict(model, images)
    for image, size, sample in zip(images, sizes, together, strict=True):
        assert sample.pred_sem_seg.data.shape == (1, *size)
        (alone,) = predict(model, [image])
        torch.testing.assert_close(
            sample.seg_logits.data, alone.seg_logits.data
        )
        assert sample.exited == alone.exited


def test_slide_inference_decides_for_each_window(make_segmentor) -> None:
    model = make_segmentor(
        test_cfg=dict(mode='slide', crop_size=(64, 96), stride=(32, 48))
    )
    model.backbone.exit_head.fc.weight.data *= 50
    image = torch.cat(
        [0.1 * torch.randn(3, 64, 96), 4 * torch.randn(3, 64, 96)], dim=2
    )
    (never,) = predict_at(model, [image], 1.0)
    eta = never.exit_confidence
    (sample,) = predict_at(model, [image], eta)
    # three windows
    assert round(3 * sample.exited, 5) in (1, 2)
    assert never.exited == 0
    assert sample.pred_sem_seg.data.shape == (1, 64, 192)


@pytest.mark.parametrize('size', [(64, 96), (80, 200), (40, 130), (65, 97)])
@pytest.mark.parametrize('stride', [(64, 96), (32, 48), (40, 50)])
def test_windows_are_those_of_mmseg(make_segmentor, size, stride) -> None:
    test_cfg = dict(mode='slide', crop_size=(64, 96), stride=stride)
    model = make_segmentor(test_cfg=test_cfg)
    images, seen = torch.randn(2, 3, *size), []

    def encode_decode(crop: Tensor, metas: list[dict]) -> Tensor:
        seen.append((crop, tuple(metas[0]['img_shape'])))
        return crop.mean(1, keepdim=True).expand(-1, 5, -1, -1)

    model.encode_decode = encode_decode
    metas = [dict(img_shape=size, ori_shape=size)] * 2
    ours = model.slide_inference(images, metas)
    windows, seen[:] = seen[:], []
    theirs = EncoderDecoder.slide_inference(model, images, metas)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(windows, seen)


def test_padding_is_selected_last_in_every_window(make_segmentor) -> None:
    model = make_segmentor(
        test_cfg=dict(mode='slide', crop_size=(64, 96), stride=(64, 96)),
        backbone__alpha=0.5,
    )
    # 1 row of coarse cells of content on a canvas 2 x 6, in two windows
    image = torch.randn(3, 64, 192)
    sample = samples([(64, 192)])[0]
    sample.set_metainfo(dict(img_shape=(30, 130), ori_shape=(64, 192)))
    with torch.no_grad(), collect_passes(model) as passes:
        model.predict(image[None], [sample])
    (left, chosen), (right, others) = ((p.valid, p.selected) for p in passes)
    assert left.tolist() == [[True] * 3 + [False] * 3]
    assert chosen.tolist() == [[0, 1, 2]]
    assert right.tolist() == [[True, True] + [False] * 4]
    assert {0, 1} < set(others[0].tolist())


def test_edge_at_width_683_stays_where_it_is(make_segmentor) -> None:
    """Padding must not stretch the mask over the image.

    The decoder is replaced by the mean brightness of each cell, which puts
    an edge of the image where the image has it.
    """
    model = make_segmentor()
    encode_decode, seen = model.encode_decode, []

    def remember(inputs: Tensor, metas: list[dict]) -> Tensor:
        seen.append(inputs[:, :1])
        return encode_decode(inputs, metas)

    def brightness(_maps: tuple, metas: list[dict]) -> Tensor:
        cells = torch.nn.functional.avg_pool2d(seen.pop(), 4)
        logits = torch.cat([-cells, cells], dim=1)
        return model.decode_head.predict_by_feat(logits, metas)

    model.encode_decode, model._decode = remember, brightness
    image = torch.full((3, 512, 683), -1.0)
    image[:, :, 400:] = 1.0
    (sample,) = predict(model, [image])
    mask = sample.pred_sem_seg.data[0]
    assert mask.shape == (512, 683)
    edge = mask[256].float().diff().nonzero().flatten()
    assert edge.tolist() == [399]


def test_prediction_without_samples(make_segmentor) -> None:
    model = make_segmentor(backbone__eta=0.5)
    with torch.no_grad():
        (sample,) = model(torch.randn(1, 3, 64, 96), mode='predict')
        data = dict(inputs=[torch.randn(3, 70, 90)])
        (other,) = model.test_step(data)
    assert isinstance(sample.exited, bool)
    assert 0 <= sample.exit_confidence <= 1
    assert other.pred_sem_seg.data.shape == (1, 70, 90)


def test_backbone_in_an_unmodified_segmentor(segmentor_config) -> None:
    cfg = segmentor_config
    del cfg['coarse_decode_weight']
    cfg['type'] = 'EncoderDecoder'
    cfg['data_preprocessor'] = dict(
        type='SegDataPreProcessor',
        size=(64, 96),
        test_cfg=dict(size_divisor=32),
    )
    cfg['backbone'].update(exit_head=None, eta=1.0)
    init_default_scope('mmseg')
    model = MODELS.build(cfg)
    loss, _ = model.parse_losses(train_step(model))
    loss.backward()
    assert all(
        p.grad is not None for p in model.parameters() if p.requires_grad
    )
    model.eval()
    (sample,) = predict(model, [torch.randn(3, 70, 90)])
    assert sample.pred_sem_seg.data.shape == (1, 70, 90)


def test_frozen_batch_norm() -> None:
    layer, resting = torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2).eval()
    with frozen_batch_norm(layer, resting, None):
        assert not layer.training
    assert layer.training
    assert not resting.training


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(pretrained='a.pth'), ValueError, 'backbone=dict.init_cfg=dict'),
        (dict(exit_weight=-1.0), ValueError, 'exit_weight must not be neg'),
        (dict(consistency='kl'), ValueError, "consistency must .* got 'kl'"),
        (dict(backbone__exit_head=None), ValueError, 'supervises an exit'),
        (
            dict(decode_head__num_classes=7),
            ValueError,
            'exit_head.num_classes=5 must equal decode_head.num_classes=7',
        ),
        (
            dict(backbone=dict(type='ResNet', depth=18)),
            TypeError,
            'MambaScopeBackbone.*got ResNet',
        ),
    ],
)
def test_bad_arguments(make_segmentor, options, error, message) -> None:
    with pytest.raises(error, match=message):
        make_segmentor(**options)


def test_labels_beyond_the_classes_name_the_mask(make_segmentor) -> None:
    sample = SegDataSample(
        gt_sem_seg=PixelData(data=torch.full((1, 8, 8), 9)),
        metainfo=dict(seg_map_path='masks/bad.png'),
    )
    with pytest.raises(ValueError, match=r'masks/bad.png: .*9'):
        make_segmentor().exit_target([sample])


class HostReads(TorchDispatchMode):
    """Operators that make the host wait for the device."""

    NAMES = ('nonzero', '_local_scalar_dense', 'masked_select')

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = args[1] if name == 'index' else ()
        masked = any(m is not None and m.dtype == torch.bool for m in masks)
        if name in self.NAMES or masked:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('resolution', ['coarse', 'fine'])
def test_one_synchronisation_decides_a_mixed_batch(
    segmentor, resolution
) -> None:
    segmentor.backbone.exit_resolution = resolution
    images = varied(4)
    with torch.no_grad():
        confidence = segmentor.backbone.scope(images).confidence
        segmentor.backbone.eta = confidence.median().item()
        with HostReads() as reads:
            metas = [dict(img_shape=images.shape[2:])] * 4
            segmentor.encode_decode(images, metas)
        exited = segmentor.backbone.scope(images).exited
    assert 0 < exited.sum() < 4
    assert reads.seen == ['nonzero']


@pytest.mark.parametrize('eta', [0.0, 0.5, 1.0])
@pytest.mark.parametrize('size', [(32, 96), (7, 1)])
def test_images_of_one_coarse_row_are_decoded(segmentor, eta, size) -> None:
    """Feature2Pyramid halves maps, coarse ones of a single row, too."""
    segmentor.backbone.eta = eta
    images = [torch.randn(3, *size) for _ in range(3)]
    for sample in segmentor.test_step(dict(inputs=images)):
        assert sample.pred_sem_seg.data.shape[1:] == size


def test_padding_is_cut_off_where_there_are_no_samples(segmentor) -> None:
    image = torch.randn(3, 60, 90)
    size = (60, 90)
    given = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
    (alone,) = segmentor.test_step(dict(inputs=[image]))
    (told,) = segmentor.test_step(dict(inputs=[image], data_samples=[given]))
    assert torch.equal(alone.seg_logits.data, told.seg_logits.data)

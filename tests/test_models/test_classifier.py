"""MambaScopeClassifier: losses by hand, exits, predictions."""

import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from mmpretrain.models import ImageClassifier
from mmpretrain.models.losses import LabelSmoothLoss
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from mmscope.models import (
    MambaScopeClassifier,
    collect_passes,
    exit_settings,
)

CLASSES = 5
ARCH = dict(
    arch=dict(embed_dims=32, num_layers=3, d_state=4),
    img_size=64,
    out_indices=(2,),
)
BACKBONE = dict(
    ARCH,
    type='mmscope.MambaScopeBackbone',
    out_type='cls_token',
    alpha=0.5,
    exit_head=dict(type='mmscope.SingleLabelExitHead', num_classes=CLASSES),
)


def make(backbone: dict | None = None, **options) -> MambaScopeClassifier:
    torch.manual_seed(0)
    init_default_scope('mmpretrain')
    config = dict(
        type='mmscope.MambaScopeClassifier',
        backbone=dict(BACKBONE, **(backbone or {})),
        data_preprocessor=dict(num_classes=CLASSES, to_rgb=True),
        **options,
    )
    return MODELS.build(config)


def samples_of(labels: list[int]) -> list[DataSample]:
    return [
        DataSample(metainfo=dict(img_path=f'{n}.png')).set_gt_label(label)
        for n, label in enumerate(labels)
    ]


def images(number: int = 4) -> Tensor:
    scales = torch.linspace(0.2, 3, number).view(-1, 1, 1, 1)
    return scales * torch.randn(number, 3, 64, 64)


def recorded(model, x, samples):
    with collect_passes(model) as passes:
        losses = model.loss(x, samples)
    return losses, passes[0]


def test_losses_are_those_of_the_paper():
    """Eq. 21 by hand: CE of the fine answer, KL of both."""
    model = make(exit_weight=2.0, consistency_weight=0.5).train()
    x, labels = images(), [0, 3, 1, 4]
    losses, result = recorded(model, x, samples_of(labels))
    q, p = result.coarse_logits, result.fine_logits
    expected = -p.log_softmax(1)[range(4), labels].mean()
    assert losses['loss_exit'].item() == pytest.approx(2 * expected.item())
    teacher = p.softmax(1)
    kl = (teacher * (teacher.log() - q.log_softmax(1))).sum(1).mean()
    actual = losses['loss_consistency'].item()
    assert actual == pytest.approx(0.5 * kl.item(), rel=1e-5)
    assert set(losses) == {'loss_exit', 'loss_consistency'}


def test_soft_labels_are_those_of_mixup():
    model = make().train()
    x = images(2)
    scores = torch.tensor([[0.7, 0.3, 0, 0, 0], [0, 0, 0.5, 0.25, 0.25]])
    samples = [DataSample().set_gt_score(score) for score in scores]
    losses, result = recorded(model, x, samples)
    expected = -(scores * result.fine_logits.log_softmax(1)).sum(1).mean()
    assert losses['loss_exit'].item() == pytest.approx(expected.item())


@pytest.mark.parametrize('soft', [False, True])
def test_smoothed_labels_are_those_of_mmpretrains_loss(soft):
    smooth = dict(BACKBONE['exit_head'], label_smoothing=0.1)
    model = make(backbone=dict(exit_head=smooth)).train()
    if soft:
        target = torch.tensor([[0.7, 0.3, 0, 0, 0], [0, 0, 0.5, 0.25, 0.25]])
        samples = [DataSample().set_gt_score(score) for score in target]
    else:
        target, samples = torch.tensor([1, 4]), samples_of([1, 4])
    losses, result = recorded(model, images(2), samples)
    expected = LabelSmoothLoss(0.1, CLASSES)(result.fine_logits, target)
    assert losses['loss_exit'].item() == pytest.approx(expected.item())


@pytest.mark.parametrize('value', [-0.1, 1.0])
def test_smoothing_out_of_range_is_refused(value):
    head = dict(BACKBONE['exit_head'], label_smoothing=value)
    with pytest.raises(ValueError, match=rf'\[0, 1\), got {value}'):
        make(backbone=dict(exit_head=head))


def test_batch_augmentation_of_mmpretrain_reaches_the_loss():
    model = make(train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8)]))
    data = dict(
        inputs=[torch.zeros(3, 64, 64, dtype=torch.uint8)] * 4,
        data_samples=samples_of([0, 1, 2, 3]),
    )
    batch = model.data_preprocessor(data, training=True)
    assert 'gt_score' in batch['data_samples'][0]
    losses = model.train()(**batch, mode='loss')
    assert torch.isfinite(losses['loss_exit'])


def test_coarse_answers_can_be_supervised():
    model = make(coarse_decode_weight=0.4).train()
    labels = [0, 3, 1, 4]
    losses, result = recorded(model, images(), samples_of(labels))
    expected = F.cross_entropy(result.coarse_logits, torch.tensor(labels))
    actual = losses['coarse_loss_exit'].item()
    assert actual == pytest.approx(0.4 * expected.item())
    with pytest.raises(ValueError, match='coarse_decode_weight .*-1'):
        make(coarse_decode_weight=-1.0)


@pytest.mark.parametrize(
    'backbone',
    [
        dict(),
        dict(unselected='drop', alpha=(0.2, 1.0)),
        dict(cell_score=dict(type='mmscope.LearnedCells')),
        dict(reuse='none', separate_coarse_pos_embed=False),
    ],
    ids=str,
)
def test_every_parameter_learns(backbone):
    model = make(backbone=backbone).train()
    losses, _ = recorded(model, images(), samples_of([0, 1, 2, 3]))
    sum(losses.values()).backward()
    without = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum()
    }
    assert not without


@pytest.mark.parametrize('eta', [0.0, None, 1.0])
def test_an_image_is_classified_by_the_pass_that_it_ended_in(eta):
    model, x = make().eval(), images()
    with torch.no_grad():
        start = model.backbone.coarse(x)
        confidence = start.coarse_logits.softmax(1).max(1).values
        between = eta is None
        if between:
            eta = confidence.sort().values[1:3].mean().item()
        coarse = start.coarse_logits
        with exit_settings(model, eta=1.0):
            fine = model(x)
        with exit_settings(model, eta=eta):
            predicted = model.predict(x, samples_of([0] * 4))
    exits = confidence >= eta
    assert [one.exited for one in predicted] == exits.tolist()
    for one, leaves, q, p in zip(predicted, exits, coarse, fine, strict=True):
        scores = (q if leaves else p).softmax(0)
        torch.testing.assert_close(one.pred_score, scores)
        assert one.pred_label.item() == scores.argmax()
        assert one.refined_share == (0 if leaves else 0.5)
        torch.testing.assert_close(
            one.exit_confidence, q.softmax(0).max().item(), rtol=1e-5, atol=0
        )
    assert exits.sum() == (2 if between else 4 * (eta == 0))


def test_both_answers_can_be_kept():
    model = make(test_cfg=dict(keep_coarse=True)).eval()
    x = list(images())

    def predict() -> list[DataSample]:
        samples = samples_of([0, 1, 2, 3])  # which a prediction writes to
        return model.test_step(dict(inputs=x, data_samples=samples))

    with torch.no_grad():
        predicted = predict()
        with exit_settings(model, eta=0.0):
            coarse = predict()
    for one, other in zip(predicted, coarse, strict=True):
        assert not one.exited
        torch.testing.assert_close(
            one.coarse_answer.pred_score, other.pred_score
        )


def test_an_answer_does_not_depend_on_batch_mates():
    model, x = make().eval(), images()
    with torch.no_grad(), exit_settings(model, eta=0.3):
        together = model(x)
        alone = torch.cat([model(one[None]) for one in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_images_of_any_size():
    model = make().eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 96, 64)).shape == (1, CLASSES)


@pytest.mark.parametrize(
    ('label', 'message'),
    [
        (CLASSES, 'label 5 is not in .0, 4.; set exit_head.num_classes'),
        (-1, 'label -1 is not'),
        ([0, 1], 'one label is needed, got .0, 1.'),
    ],
)
def test_labels_that_do_not_fit_are_named_with_their_file(label, message):
    model = make().train()
    with pytest.raises(ValueError, match=f'^0.png: {message}'):
        model.loss(images(1), samples_of([label]))


def test_other_exit_heads_and_weights_are_refused():
    head = dict(type='mmscope.MultiLabelExitHead', num_classes=CLASSES)
    with pytest.raises(TypeError, match='SingleLabel.* got MultiLabelExit'):
        make(backbone=dict(exit_head=head))
    with pytest.raises(ValueError, match='exit_head=None'):
        make(backbone=dict(exit_head=None))
    with pytest.raises(ValueError, match='init_cfg'):
        make(pretrained='vim.pth')
    with pytest.raises(ValueError, match="set backbone.out_type='cls_token'"):
        make(backbone=dict(out_type='featmap'))
    model = make()
    with pytest.raises(ValueError, match="'backbone' or 'neck'"):
        model.extract_feat(images(1), stage='pre_logits')


@pytest.mark.parametrize('eta', [0.0, 0.3, 1.0])
def test_features_are_the_class_tokens_that_the_answer_is_of(eta):
    model, x = make().eval(), images()
    with torch.no_grad(), exit_settings(model, eta=eta):
        (token,) = model.extract_feat(x, 'backbone')
        torch.testing.assert_close(model.backbone.exit_head(token), model(x))


@pytest.mark.parametrize(
    'backbone',
    [
        dict(ARCH, type='mmscope.VisionMambaBackbone', out_type='cls_token'),
        dict(BACKBONE, exit_head=None),
        dict(BACKBONE, exit_head=None, reuse='none'),
        dict(BACKBONE, exit_head=None, reuse='none', unselected='drop'),
    ],
    ids=['vim', 'mambascope', 'without reuse', 'without coarse tokens'],
)
def test_both_backbones_serve_mmpretrains_own_classifier(backbone):
    init_default_scope('mmpretrain')
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=backbone,
            head=dict(
                type='LinearClsHead', num_classes=CLASSES, in_channels=32
            ),
        )
    )
    assert type(model) is ImageClassifier
    losses = model.loss(images(), samples_of([0, 1, 2, 3]))
    assert losses['loss'].item() == pytest.approx(math.log(CLASSES), abs=1.0)
    losses['loss'].backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert not without
